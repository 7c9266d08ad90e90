//! The vsock device: Firecracker's hybrid protocol on unix sockets. A host program connects to the device's socket and says
//! `CONNECT port`; what a guest asks of host port P is connected to `<socket>_P`.
use super::counters::Counters;
use super::memory::{gather, io_vectors, scatter, Memory};
use super::queue::{Chain, Queue};
use super::vhost_user::{Device, Event, Rings, DEVICE_TOKENS};
use super::vsock_connection::{read_connect, Connection, Next};
use super::vsock_packet::*;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const RX: usize = 0;
const TX: usize = 1;
const MAX_CONNECTIONS: usize = 1023;
const FIRST_HOST_PORT: u32 = 1 << 30;
const TOKEN_LISTENER: u64 = DEVICE_TOKENS;
pub const TOKEN_WAKE: u64 = DEVICE_TOKENS + 1;
const TOKEN_STREAM: u64 = DEVICE_TOKENS + 16;
const MAX_DATA: usize = 64 * 1024;

/// The guest's ring for the device's events, which QEMU keeps to itself: addresses in the guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct EventRing {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl EventRing {
    /// How many buffers the guest has put in since ever, modulo 2^16.
    fn count(&self, memory: &Memory) -> u16 {
        memory.at_guest(self.available, 4).map_or(0, |ring| ring.read_u16(2))
    }
}

/// What the control thread asks of the device's.
#[derive(Default)]
pub struct Orders {
    /// End every connection; at the next start tell the guest so, through this ring
    pub reset: Option<EventRing>,
    /// Take these instead of what the front end says when it starts the rings
    pub bases: Option<Vec<u16>>,
}

/// The guest's driver ends whatever connection it has when it takes the event: new ones wait for that, so long at most.
const MAX_HOLD: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A reset that the guest was told of and has not taken yet
struct Announced {
    ring: EventRing,
    /// What the ring's count was; the driver puts the buffer back when it has taken the event
    count: u16,
    until: Instant,
}

/// Host port and guest port
type Key = (u32, u32);

pub struct Vsock {
    guest_cid: u64,
    path: String,
    listener: UnixListener,
    connections: HashMap<Key, Connection>,
    tokens: HashMap<u64, Key>,
    /// Host connections that have not said where to
    strangers: HashMap<u64, (UnixStream, Vec<u8>)>,
    next_token: u64,
    next_host_port: u32,
    /// Connections that may have something for the guest, each once
    ready: VecDeque<Key>,
    /// Resets for packets that belong to no connection
    resets: VecDeque<Header>,
    orders: Arc<Mutex<Orders>>,
    announce: Option<EventRing>,
    announced: Option<Announced>,
    counters: Arc<Counters>,
    /// What the guest's driver has accepted
    features: Arc<AtomicU64>,
    is_listening: bool,
}

impl Vsock {
    pub fn new(
        guest_cid: u32,
        path: String,
        listener: UnixListener,
        orders: Arc<Mutex<Orders>>,
        counters: Arc<Counters>,
    ) -> io::Result<Vsock> {
        listener.set_nonblocking(true)?;
        Ok(Vsock {
            guest_cid: u64::from(guest_cid),
            path,
            listener,
            connections: HashMap::new(),
            tokens: HashMap::new(),
            strangers: HashMap::new(),
            next_token: TOKEN_STREAM,
            next_host_port: FIRST_HOST_PORT,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            orders,
            announce: None,
            announced: None,
            counters,
            features: Arc::default(),
            is_listening: false,
        })
    }

    pub fn features_cell(&self) -> Arc<AtomicU64> {
        self.features.clone()
    }

    fn accept(&mut self, rings: &Rings) {
        while let Ok((stream, _)) = self.listener.accept() {
            let taken = self.connections.len() + self.strangers.len();
            if taken >= MAX_CONNECTIONS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let token = self.new_token();
            if rings.poll.watch(stream.as_raw_fd(), token, libc::EPOLLIN as u32).is_ok() {
                self.strangers.insert(token, (stream, Vec::new()));
            }
        }
    }

    fn new_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn stranger_spoke(&mut self, rings: &Rings, token: u64) {
        let Some((mut stream, mut so_far)) = self.strangers.remove(&token) else { return };
        match read_connect(&mut stream, &mut so_far) {
            Ok(None) => drop(self.strangers.insert(token, (stream, so_far))),
            Ok(Some(guest_port)) => {
                // A port that is free for this guest port.
                while self.connections.contains_key(&(self.next_host_port, guest_port)) {
                    self.next_host_port = self.next_host_port.wrapping_add(1).max(FIRST_HOST_PORT);
                }
                let key = (self.next_host_port, guest_port);
                self.next_host_port = self.next_host_port.wrapping_add(1).max(FIRST_HOST_PORT);
                rings.poll.forget(stream.as_raw_fd());
                self.add(key, Connection::from_host(stream, key.0));
            }
            Err(_) => {}
        }
    }

    fn add(&mut self, key: Key, mut connection: Connection) {
        connection.token = self.new_token();
        connection.is_queued = true;
        self.tokens.insert(connection.token, key);
        self.connections.insert(key, connection);
        self.counters.add("conns_added", 1);
        self.ready.push_back(key);
    }

    fn remove(&mut self, rings: &Rings, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            rings.poll.forget(connection.stream.as_raw_fd());
            self.tokens.remove(&connection.token);
            self.counters.add("conns_removed", 1);
        }
    }

    /// Waits for what the connection needs now, and sends what it has.
    fn settle(&mut self, rings: &Rings, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let wanted = connection.wanted();
        if wanted != connection.watched {
            let fd = connection.stream.as_raw_fd();
            if wanted == 0 {
                rings.poll.forget(fd);
            } else if rings.poll.watch(fd, connection.token, wanted).is_err() {
                connection.expire();
            }
            connection.watched = wanted;
        }
        if !matches!(connection.next(), Next::Nothing) && !connection.is_queued {
            connection.is_queued = true;
            self.ready.push_back(key);
        }
    }

    /// Takes what the guest sent.
    fn transmit(&mut self, rings: &mut Rings) {
        let mut has_pushed = false;
        let mut payload = Vec::new();
        loop {
            let popped = rings.queues[TX].pop(&rings.memory);
            let Ok(Some(chain)) = popped else {
                if popped.is_ok() && rings.queues[TX].wants_kick() {
                    continue;
                }
                break;
            };
            let mut raw = [0; HEADER_BYTES];
            if gather(&chain.readable, 0, &mut raw) == HEADER_BYTES {
                let header = Header::decode(&raw);
                let bytes = chain.readable_bytes() - HEADER_BYTES;
                if header.len as usize <= bytes.min(MAX_DATA) {
                    payload.resize(header.len as usize, 0);
                    gather(&chain.readable, HEADER_BYTES, &mut payload);
                    self.counters.add("tx_bytes_count", u64::from(header.len));
                    self.counters.add("tx_packets_count", 1);
                    self.packet_came(rings, &header, &payload);
                }
            }
            rings.queues[TX].push(chain.head, 0);
            has_pushed = true;
        }
        if has_pushed {
            rings.queues[TX].signal();
        }
    }

    fn packet_came(&mut self, rings: &Rings, header: &Header, payload: &[u8]) {
        let key = (header.dst_port, header.src_port);
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            if header.op != OP_RST && header.dst_cid == HOST_CID {
                self.reset(header);
            }
            return;
        }
        if header.op == OP_RST {
            return self.remove(rings, key);
        }
        if header.op == OP_REQUEST {
            // A request for a connection that is there means that it is not for the guest.
            self.remove(rings, key);
            let found = (self.connections.len() < MAX_CONNECTIONS)
                .then(|| connect(&format!("{}_{}", self.path, header.dst_port)).ok())
                .flatten();
            match found {
                Some(stream) => self.add(key, Connection::from_guest(stream, key.0, header)),
                None => self.reset(header),
            }
            return self.settle(rings, key);
        }
        match self.connections.get_mut(&key) {
            Some(connection) => connection.packet_came(header, payload),
            None => self.reset(header),
        }
        self.settle(rings, key);
    }

    fn reset(&mut self, cause: &Header) {
        self.resets.push_back(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: cause.dst_port,
            dst_port: cause.src_port,
            kind: cause.kind,
            op: OP_RST,
            ..Header::default()
        });
        // A guest that does not take its resets gets no more than this.
        self.resets.truncate(4096);
    }

    /// Gives the guest what there is for it, connection by connection in turn.
    fn receive(&mut self, rings: &mut Rings) {
        let mut has_pushed = false;
        while !self.resets.is_empty() || !self.ready.is_empty() {
            let popped = rings.queues[RX].pop(&rings.memory);
            let Ok(Some(chain)) = popped else {
                if popped.is_ok() && rings.queues[RX].wants_kick() {
                    continue;
                }
                break;
            };
            if chain.writable_bytes() < HEADER_BYTES {
                rings.queues[RX].push(chain.head, 0);
                has_pushed = true;
            } else if let Some(header) = self.resets.pop_front() {
                send(&mut rings.queues[RX], &chain, &header);
                has_pushed = true;
            } else if self.serve_next(rings, &chain) {
                has_pushed = true;
            } else {
                rings.queues[RX].unpop(1);
            }
        }
        if has_pushed {
            rings.queues[RX].signal();
        }
    }

    /// Lets the next ready connection use `chain`. @returns whether it did
    fn serve_next(&mut self, rings: &mut Rings, chain: &Chain) -> bool {
        let Some(key) = self.ready.pop_front() else { return false };
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        connection.is_queued = false;
        let is_used = match connection.next() {
            Next::Nothing => false,
            Next::Packet { op, flags } => {
                let header = connection.header(self.guest_cid, key.1, op, flags, 0);
                send(&mut rings.queues[RX], chain, &header);
                if connection.packet_was_sent(op) {
                    self.remove(rings, key);
                }
                true
            }
            Next::Data(limit) => {
                let room = (chain.writable_bytes() - HEADER_BYTES).min(limit).min(MAX_DATA);
                let vectors = io_vectors(&chain.writable, HEADER_BYTES, room);
                let count = unsafe {
                    libc::readv(connection.stream.as_raw_fd(), vectors.as_ptr(), vectors.len().min(1024) as libc::c_int)
                };
                let result = if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) };
                if room > 0 {
                    connection.data_was_read(&result);
                }
                match result {
                    Ok(bytes) if bytes > 0 => {
                        let header = connection.header(self.guest_cid, key.1, OP_RW, 0, bytes as u32);
                        send(&mut rings.queues[RX], chain, &header);
                        self.counters.add("rx_bytes_count", bytes as u64);
                        self.counters.add("rx_packets_count", 1);
                        true
                    }
                    _ => false,
                }
            }
        };
        self.settle(rings, key);
        is_used
    }

    fn obey_orders(&mut self, rings: &mut Rings) {
        let orders = self.orders.lock().map(|mut orders| std::mem::take(&mut *orders)).unwrap_or_default();
        if let Some(ring) = orders.reset {
            let keys: Vec<Key> = self.connections.keys().copied().collect();
            for key in keys {
                self.remove(rings, key);
            }
            self.ready.clear();
            self.resets.clear();
            self.announce = Some(ring);
        }
        if orders.bases.is_some() {
            rings.restored_bases = orders.bases;
        }
    }

    /// Whether the guest has still to take the event of a reset.
    fn is_holding(&mut self, rings: &Rings) -> bool {
        let is_taken = |one: &Announced| one.ring.count(&rings.memory) != one.count || one.until <= Instant::now();
        if self.announced.as_ref().is_some_and(is_taken) {
            self.announced = None;
        }
        self.announced.is_some()
    }

    /// Tells the guest that every connection is gone (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET); listeners stay.
    fn announce_reset(&mut self, rings: &mut Rings) {
        rings.restored_bases = None;
        let Some(ring) = self.announce.take() else { return };
        let to_user = |addr: u64| rings.memory.user_of_guest(addr).unwrap_or(0);
        let mut queue = Queue::default();
        (queue.size, queue.is_enabled) = (ring.size, true);
        queue.addresses = (to_user(ring.descriptors), to_user(ring.used), to_user(ring.available));
        if !queue.start(&rings.memory, false) {
            return;
        }
        queue.next_available = queue.next_used();
        if let Ok(Some(chain)) = queue.pop(&rings.memory) {
            scatter(&chain.writable, 0, &0u32.to_le_bytes());
            queue.push(chain.head, 4);
            let count = ring.count(&rings.memory);
            self.announced = Some(Announced { ring, count, until: Instant::now() + MAX_HOLD });
        }
        // One interrupt is for all rings of a device.
        if let Some(call) = &rings.queues[RX].call {
            super::queue::signal_event(call);
        }
    }
}

/// A connection of the host's own; one that would have to wait is none.
fn connect(path: &str) -> io::Result<UnixStream> {
    let (address, length) = super::sockets::unix_address(path)?;
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = crate::sys::check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    crate::sys::check(unsafe { libc::connect(fd, std::ptr::from_ref(&address).cast(), length) })?;
    Ok(stream)
}

fn send(queue: &mut Queue, chain: &Chain, header: &Header) {
    scatter(&chain.writable, 0, &header.encode());
    queue.push(chain.head, HEADER_BYTES as u32 + header.len);
}

impl Device for Vsock {
    fn features(&self) -> u64 {
        0
    }

    fn queue_count(&self) -> usize {
        2
    }

    fn config(&self) -> Vec<u8> {
        self.guest_cid.to_le_bytes().to_vec()
    }

    fn handle(&mut self, rings: &mut Rings, event: Event) {
        match event {
            Event::Started => {
                // All of them, lest one should start where the front end says.
                if rings.queues.iter().all(Queue::is_running) {
                    self.features.store(rings.features, Ordering::Relaxed);
                    self.announce_reset(rings);
                }
                if !self.is_listening {
                    self.is_listening =
                        rings.poll.watch(self.listener.as_raw_fd(), TOKEN_LISTENER, libc::EPOLLIN as u32).is_ok();
                }
            }
            Event::Stopped => {
                self.announced = None;
                return;
            }
            Event::Kick => {}
            Event::Ready { token: TOKEN_LISTENER, .. } => self.accept(rings),
            Event::Ready { token: TOKEN_WAKE, .. } => self.obey_orders(rings),
            Event::Ready { token, events } => {
                if self.strangers.contains_key(&token) {
                    self.stranger_spoke(rings, token);
                } else if let Some(key) = self.tokens.get(&token).copied() {
                    if let Some(connection) = self.connections.get_mut(&key) {
                        if events & (libc::EPOLLOUT as u32) != 0 {
                            connection.flush();
                        }
                        if events & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
                            connection.input_is_ready();
                        }
                    }
                    self.settle(rings, key);
                }
            }
            Event::Deadline => {
                let now = Instant::now();
                let late: Vec<Key> = self
                    .connections
                    .iter()
                    .filter(|(_, one)| one.deadline.is_some_and(|at| at <= now))
                    .map(|(key, _)| *key)
                    .collect();
                for key in late {
                    if let Some(connection) = self.connections.get_mut(&key) {
                        connection.expire();
                    }
                    self.settle(rings, key);
                }
            }
        }
        if rings.queues[TX].is_running() {
            self.transmit(rings);
        }
        if rings.queues[RX].is_running() && !self.is_holding(rings) {
            self.receive(rings);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let hold = self.announced.as_ref().map(|_| Instant::now() + LOOK_EVERY);
        self.connections.values().filter_map(|one| one.deadline).chain(hold).min()
    }
}
