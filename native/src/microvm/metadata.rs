//! The metadata service's network side: ARP and TCP of one address, for one network device. What comes on a connection goes to
//! the program that started us, which speaks HTTP; its answers go back.
use super::control::Events;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Firecracker's
const MAC: [u8; 6] = [0x06, 0x01, 0x23, 0x45, 0x67, 0x01];
const PORT: u16 = 80;
const MAX_CONNECTIONS: usize = 30;
const RECEIVE_BYTES: usize = 8192;
const SEND_BYTES: usize = 16384;
/// Frames that wait for the guest at most
const MAX_FRAMES: usize = 256;

#[derive(Default)]
struct Wire {
    from_guest: VecDeque<Vec<u8>>,
    to_guest: VecDeque<Vec<u8>>,
}

struct Arriving(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arriving {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        let mut frame = vec![0; bytes];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arriving;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Arriving, Leaving<'_>)> {
        if self.to_guest.len() >= MAX_FRAMES {
            return None;
        }
        let frame = self.from_guest.pop_front()?;
        Some((Arriving(frame), Leaving(&mut self.to_guest)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Leaving<'_>> {
        (self.to_guest.len() < MAX_FRAMES).then_some(Leaving(&mut self.to_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        // The guest leaves its checksums to the device.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities
    }
}

struct Connection {
    handle: SocketHandle,
    is_open: bool,
    answer: VecDeque<u8>,
    ends_with_answer: bool,
    /// Bytes were handed over that nothing was said to yet
    awaits_answer: bool,
}

pub struct Metadata {
    address: Ipv4Addr,
    /// The network device's name in messages
    id: String,
    events: Arc<Events>,
    started: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    connections: Vec<Connection>,
}

impl Metadata {
    pub fn new(id: &str, address: Ipv4Addr, events: Arc<Events>) -> Metadata {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let mut seed = [0u8; 8];
        unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        config.random_seed = u64::from_le_bytes(seed);
        let mut interface = Interface::new(config, &mut wire, StackInstant::from_millis(0));
        let octets = address.octets();
        let own = Ipv4Address::new(octets[0], octets[1], octets[2], octets[3]);
        // Whatever the guest's own address is, it is on this link.
        interface.update_ip_addrs(|all| {
            // There is room for one at least.
            let _ = all.push(IpCidr::Ipv4(Ipv4Cidr::new(own, 0)));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let connections = (0..MAX_CONNECTIONS)
            .map(|_| {
                let receive = tcp::SocketBuffer::new(vec![0; RECEIVE_BYTES]);
                let send = tcp::SocketBuffer::new(vec![0; SEND_BYTES]);
                let handle = sockets.add(tcp::Socket::new(receive, send));
                Connection {
                    handle,
                    is_open: false,
                    answer: VecDeque::new(),
                    ends_with_answer: false,
                    awaits_answer: false,
                }
            })
            .collect();
        let id = id.to_owned();
        Metadata { address, id, events, started: Instant::now(), interface, sockets, wire, connections }
    }

    /// Whether a frame (its first 42 bytes are enough) is for this service: ARP or IPv4 to its address.
    pub fn is_for_it(&self, frame: &[u8]) -> bool {
        let target = match frame.get(12..14) {
            Some([0x08, 0x06]) => frame.get(38..42),
            Some([0x08, 0x00]) => frame.get(30..34),
            _ => None,
        };
        target == Some(&self.address.octets())
    }

    pub fn frame_came(&mut self, frame: Vec<u8>) {
        if self.wire.from_guest.len() < MAX_FRAMES {
            self.wire.from_guest.push_back(frame);
        }
    }

    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.wire.to_guest.pop_front()
    }

    pub fn put_back(&mut self, frame: Vec<u8>) {
        self.wire.to_guest.push_front(frame);
    }

    fn now(&self) -> StackInstant {
        StackInstant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// Lets the stack do what there is to do.
    pub fn run(&mut self) {
        let now = self.now();
        for _ in 0..4 {
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            self.tend();
        }
    }

    fn tend(&mut self) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            let socket = self.sockets.get_mut::<tcp::Socket>(connection.handle);
            if !socket.is_open() {
                if connection.is_open {
                    connection.is_open = false;
                    self.events.send(serde_json::json!({
                        "event": "metadata", "interface": self.id, "connection": index, "ended": true
                    }));
                }
                connection.answer.clear();
                connection.ends_with_answer = false;
                connection.awaits_answer = false;
                // Port 80 is never refused.
                let _ = socket.listen(PORT);
                socket.set_timeout(Some(smoltcp::time::Duration::from_secs(60)));
                continue;
            }
            // One request at a time: the next is read when this one's answer has gone.
            let is_free = connection.answer.is_empty() && !connection.awaits_answer && !connection.ends_with_answer;
            if is_free && socket.can_recv() {
                let bytes = socket.recv(|bytes| (bytes.len(), hex(bytes))).unwrap_or_default();
                connection.is_open = true;
                connection.awaits_answer = true;
                self.events.send(serde_json::json!({
                    "event": "metadata", "interface": self.id, "connection": index, "bytes": bytes
                }));
            }
            while !connection.answer.is_empty() && socket.can_send() {
                let (first, _) = connection.answer.as_slices();
                match socket.send_slice(first) {
                    Ok(count) if count > 0 => drop(connection.answer.drain(..count)),
                    _ => break,
                }
            }
            let has_guest_closed = socket.state() == tcp::State::CloseWait && !socket.can_recv();
            let is_idle = connection.answer.is_empty() && !connection.awaits_answer;
            if is_idle && (connection.ends_with_answer || has_guest_closed) {
                socket.close();
            }
        }
    }

    /// Sends an answer on a connection, which may be empty: more of the request is wanted. `is_last` closes it.
    pub fn answer(&mut self, index: usize, bytes: &[u8], is_last: bool) {
        if let Some(connection) = self.connections.get_mut(index).filter(|one| one.is_open) {
            connection.answer.extend(bytes);
            connection.ends_with_answer |= is_last;
            connection.awaits_answer = false;
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        // A quarter of a second is soon enough for TCP's timers; what is due at once has been done by `run`.
        let is_busy = self.connections.iter().any(|one| {
            let state = self.sockets.get::<tcp::Socket>(one.handle).state();
            !matches!(state, tcp::State::Listen | tcp::State::Closed)
        });
        is_busy.then(|| Instant::now() + Duration::from_millis(250))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
