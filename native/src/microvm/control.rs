//! `microvm-devices`: the devices of one microVM that are not QEMU's own, controlled by JSON lines on descriptor 3. It ends when
//! that is closed, and removes the sockets it was told of: whoever started it may have been killed.
//!
//! Request:  {"id": 1, "op": "net", ...}      Answer: {"id": 1, "return": {...}} or {"id": 1, "error": "...", "errno": 2}
//! Event:    {"event": "metadata", ...}
use super::counters::Counters;
use super::files::{self, Monitor};
use super::metadata::Metadata;
use super::queue::signal_event;
use super::sockets::{drain_event, event_fd, Rendezvous};
use super::tap::Tap;
use super::token_bucket::TokenBucket;
use super::vhost_user::{receive, serve, Device, Event, Rings};
use super::{net, serial, vsock};
use crate::sys::{check, Socket};
use serde_json::{json, Value};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const CONTROL_FD: i32 = 3;

/// The way back to the program that started us; whole lines, from any thread.
pub struct Events(Mutex<Socket>);

impl Events {
    pub fn send(&self, message: Value) {
        if let Ok(mut socket) = self.0.lock() {
            // Nobody listens any more: the control thread sees it, too.
            let _ = socket.write_all(format!("{message}\n").as_bytes());
        }
    }
}

/// A device's orders and what wakes it to read them.
struct Post<O> {
    orders: Arc<Mutex<O>>,
    wake: Arc<OwnedFd>,
}

impl<O: Default> Post<O> {
    fn new() -> io::Result<Post<O>> {
        Ok(Post { orders: Arc::default(), wake: Arc::new(event_fd()?) })
    }

    fn give(&self, order: impl FnOnce(&mut O)) {
        if let Ok(mut orders) = self.orders.lock() {
            order(&mut orders);
        }
        signal_event(&self.wake);
    }
}

/// A device that drains what wakes it before it looks for orders.
struct Woken<D> {
    device: D,
    wake: Arc<OwnedFd>,
    token: u64,
}

impl<D: Device> Device for Woken<D> {
    fn features(&self) -> u64 {
        self.device.features()
    }
    fn queue_count(&self) -> usize {
        self.device.queue_count()
    }
    fn config(&self) -> Vec<u8> {
        self.device.config()
    }
    fn handle(&mut self, rings: &mut Rings, event: Event) {
        if matches!(event, Event::Ready { token, .. } if token == self.token) {
            drain_event(&self.wake);
        }
        self.device.handle(rings, event);
    }
    fn deadline(&self) -> Option<Instant> {
        self.device.deadline()
    }
}

struct NetEntry {
    post: Post<net::Orders>,
    counters: Arc<Counters>,
}

struct VsockEntry {
    post: Post<vsock::Orders>,
    features: Arc<AtomicU64>,
    path: String,
}

struct Host {
    events: Arc<Events>,
    /// QEMU's user, who alone may connect
    uid: u32,
    memory: Option<File>,
    door: Option<Rendezvous>,
    monitor: Option<Monitor>,
    vsock: Option<VsockEntry>,
    vsock_counters: Arc<Counters>,
    nets: BTreeMap<String, NetEntry>,
    /// Devices that wait for QEMU: started by `connect`
    waiting: HashMap<String, Box<dyn FnOnce(u32) + Send>>,
    serial_counters: Arc<Counters>,
    owned: Vec<String>,
    copies: Vec<File>,
}

fn text<'a>(request: &'a Value, name: &str) -> io::Result<&'a str> {
    request[name].as_str().ok_or_else(|| io::Error::other(format!("{name} is missing")))
}

fn number(request: &Value, name: &str) -> io::Result<u64> {
    request[name].as_u64().ok_or_else(|| io::Error::other(format!("{name} is missing")))
}

/// Runs a device in a thread of its own until QEMU hangs up.
fn run_device<D: Device>(
    name: String,
    make: impl FnOnce() -> io::Result<D> + Send + 'static,
    post: &Post<impl Default>,
    token: u64,
    door: Arc<Rendezvous>,
    events: Arc<Events>,
) -> Box<dyn FnOnce(u32) + Send> {
    let wake = post.wake.clone();
    Box::new(move |uid| {
        std::thread::spawn(move || {
            let outcome = (|| {
                let device = make()?;
                let socket = door.accept(uid)?;
                let mut rings = Rings::new(device.queue_count())?;
                rings.poll.watch(wake.as_raw_fd(), token, libc::EPOLLIN as u32)?;
                serve(&socket, &mut rings, &mut Woken { device, wake: wake.clone(), token })
            })();
            let why = outcome.map_or_else(|error| error.to_string(), |()| "QEMU hung up".to_owned());
            events.send(json!({"event": "ended", "device": name, "why": why}));
        });
    })
}

impl Host {
    fn obey(&mut self, request: &Value) -> io::Result<Value> {
        match text(request, "op")? {
            "own" => self.owned.push(text(request, "path")?.to_owned()),
            "memory" => {
                let make = if request["huge_pages"] == true { files::anonymous_huge } else { files::anonymous };
                let file = make("guest-memory", number(request, "bytes")?)?;
                if let Some(path) = request["path"].as_str() {
                    let source = File::open(path)?;
                    if source.metadata()?.len() != number(request, "bytes")? {
                        return Err(io::Error::other("the memory file does not have the size of the memory"));
                    }
                    files::copy_sparse(&source, &file)?;
                }
                let fd = file.as_raw_fd();
                self.memory = Some(file);
                return Ok(json!({"fd": fd}));
            }
            "save-memory" => {
                let memory = self.memory.as_ref().ok_or_else(|| io::Error::other("there is no memory"))?;
                let path = text(request, "path")?;
                let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
                files::copy_sparse(memory, &file)?;
                file.sync_all()?;
            }
            "copy" => {
                let copy = files::anonymous("file", 0)?;
                files::copy_sparse(&File::open(text(request, "path")?)?, &copy)?;
                let fd = copy.as_raw_fd();
                self.copies.push(copy);
                return Ok(json!({"fd": fd}));
            }
            "scratch" => {
                let file = files::anonymous("scratch", 0)?;
                let fd = file.as_raw_fd();
                self.copies.push(file);
                return Ok(json!({"fd": fd}));
            }
            "save-state" => {
                let file = files::anonymous("state", 0)?;
                self.monitor()?.save_state(&file)?;
                let fd = file.as_raw_fd();
                self.copies = vec![file];
                return Ok(json!({"fd": fd}));
            }
            "monitor" => {
                let door = Rendezvous::new()?;
                let name = door.name.clone();
                self.door = Some(door);
                return Ok(json!({"socket": name}));
            }
            "add-fd" => {
                let file = files::open(text(request, "path")?, request["writable"] == true)?;
                let set = number(request, "set")?;
                self.monitor()?.hand_over(&file, set)?;
            }
            // QEMU is about to connect, as this user.
            "connect" => {
                self.uid = number(request, "uid")? as u32;
                for (_, start) in self.waiting.drain() {
                    start(self.uid);
                }
            }
            "vsock" => return self.open_vsock(number(request, "cid")? as u32, text(request, "path")?),
            "vsock-close" => self.close_vsock(),
            "vsock-features" => {
                let vsock = self.vsock.as_ref().ok_or_else(|| io::Error::other("there is no vsock device"))?;
                // As text: JSON's numbers do not hold 64 bits. The protocol's own bit is not the guest's.
                let features = vsock.features.load(Ordering::Relaxed) & !super::vhost_user::F_PROTOCOL;
                return Ok(json!({"features": features.to_string()}));
            }
            "vsock-reset" => {
                let ring = &request["ring"];
                let ring = vsock::EventRing {
                    size: number(ring, "size")? as u16,
                    descriptors: number(ring, "descriptors")?,
                    available: number(ring, "available")?,
                    used: number(ring, "used")?,
                };
                let bases = request["bases"]
                    .as_array()
                    .map(|all| all.iter().map(|one| one.as_u64().unwrap_or(0) as u16).collect::<Vec<u16>>());
                let vsock = self.vsock.as_ref().ok_or_else(|| io::Error::other("there is no vsock device"))?;
                vsock.post.give(|orders| (orders.reset, orders.bases) = (Some(ring), bases));
            }
            "net" => return self.open_net(text(request, "interface")?),
            "net-limit" => {
                self.net(request)?.post.give(|orders| {
                    orders.rx.push(request["rx"].clone());
                    orders.tx.push(request["tx"].clone());
                });
            }
            "metadata" => {
                let address = text(request, "address")?.parse().map_err(io::Error::other)?;
                let id = text(request, "interface")?;
                let metadata = Metadata::new(id, address, self.events.clone());
                self.net(request)?.post.give(|orders| orders.metadata = Some(metadata));
            }
            "metadata-answer" => {
                let connection = number(request, "connection")? as usize;
                let bytes = from_hex(text(request, "bytes")?)?;
                let is_last = request["last"] == true;
                self.net(request)?.post.give(|orders| orders.answers.push((connection, bytes, is_last)));
            }
            "serial" => return self.open_serial(request),
            "counters" => {
                let nets: BTreeMap<&String, Value> =
                    self.nets.iter().map(|(id, one)| (id, one.counters.to_json())).collect();
                let vsock = self.vsock_counters.to_json();
                return Ok(json!({"vsock": vsock, "nets": nets, "serial": self.serial_counters.to_json()}));
            }
            other => return Err(io::Error::other(format!("there is no operation {other}"))),
        }
        Ok(json!({}))
    }

    /// QEMU's second monitor, which it has connected by now.
    fn monitor(&mut self) -> io::Result<&mut Monitor> {
        if self.monitor.is_none() {
            let door = self.door.as_ref().ok_or_else(|| io::Error::other("there is no monitor"))?;
            self.monitor = Some(Monitor::open(door, self.uid)?);
        }
        self.monitor.as_mut().ok_or_else(|| io::Error::other("there is no monitor"))
    }

    fn net(&self, request: &Value) -> io::Result<&NetEntry> {
        let id = text(request, "interface")?;
        self.nets.get(id).ok_or_else(|| io::Error::other(format!("there is no interface {id}")))
    }

    /// The tap comes by `send-fd` on the device's door, before QEMU does.
    fn open_net(&mut self, id: &str) -> io::Result<Value> {
        let (post, counters, door) = (Post::new()?, Arc::new(Counters::default()), Arc::new(Rendezvous::new()?));
        let (tap_door, uid) = (door.clone(), self.uid);
        let (orders, counts) = (post.orders.clone(), counters.clone());
        let make = move || {
            let sender = tap_door.accept(uid)?;
            let mut fds = Vec::new();
            receive(sender.raw(), 1, &mut fds)?;
            let fd = fds.pop().ok_or_else(|| io::Error::other("no tap was handed over"))?;
            Ok(net::Net::new(Tap::new(fd)?, orders, counts))
        };
        let name = format!("net {id}");
        let start = run_device(name.clone(), make, &post, net::TOKEN_WAKE, door.clone(), self.events.clone());
        let socket = door.name.clone();
        self.waiting.insert(name, start);
        self.nets.insert(id.to_owned(), NetEntry { post, counters });
        Ok(json!({"socket": socket}))
    }

    fn open_vsock(&mut self, cid: u32, path: &str) -> io::Result<Value> {
        self.close_vsock();
        let listener = UnixListener::bind(path)?;
        let (post, door) = (Post::new()?, Arc::new(Rendezvous::new()?));
        let socket = door.name.clone();
        let device =
            vsock::Vsock::new(cid, path.to_owned(), listener, post.orders.clone(), self.vsock_counters.clone())?;
        let features = device.features_cell();
        let start = run_device("vsock".into(), || Ok(device), &post, vsock::TOKEN_WAKE, door, self.events.clone());
        self.waiting.insert("vsock".into(), start);
        self.vsock = Some(VsockEntry { post, features, path: path.to_owned() });
        Ok(json!({"socket": socket}))
    }

    /// The first socket goes before the second is bound, as with Firecracker.
    fn close_vsock(&mut self) {
        self.waiting.remove("vsock");
        if let Some(vsock) = self.vsock.take() {
            let _ = fs::remove_file(&vsock.path);
        }
    }

    fn open_serial(&mut self, request: &Value) -> io::Result<Value> {
        let output = match request["path"].as_str() {
            None => None,
            Some(path) => {
                let flags = libc::O_NONBLOCK;
                let mut options = OpenOptions::new();
                Some(options.write(true).create(true).truncate(true).custom_flags(flags).mode(0o600).open(path)?)
            }
        };
        let field = |name: &str| request["bucket"][name].as_u64().unwrap_or(0);
        let bucket = TokenBucket::new(field("size"), field("one_time_burst"), field("refill_time"))
            .ok_or_else(|| io::Error::other("a bucket of no size is no limit"))?;
        let door = Rendezvous::new()?;
        let (name, counters) = (door.name.clone(), self.serial_counters.clone());
        self.waiting.insert(
            "serial".into(),
            Box::new(move |uid| {
                std::thread::spawn(move || serial::serve(&door, uid, output, bucket, &counters));
            }),
        );
        Ok(json!({"socket": name}))
    }

    /// Removes what would be left of a program that was killed: sockets that nobody listens on.
    fn clean_up(&mut self) {
        self.close_vsock();
        for path in &self.owned {
            let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
            let is_dead =
                UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if is_socket && is_dead {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn from_hex(text: &str) -> io::Result<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(io::ErrorKind::InvalidData);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Ok((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => Err(io::ErrorKind::InvalidData.into()),
        })
        .collect()
}

/// `send-fd NAME`: hands descriptor 3 over.
pub fn send_fd(args: &[String]) -> Result<(), String> {
    let [name] = args else { return Err("usage: send-fd NAME".into()) };
    let send = || {
        let file = files::inherited(CONTROL_FD)?;
        let (address, length) = super::sockets::unix_address(&format!("@{name}"))?;
        let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
        check(unsafe { libc::connect(fd, std::ptr::from_ref(&address).cast(), length) })?;
        super::sockets::send_with_fd(fd, &[0], file.as_raw_fd())
    };
    send().map_err(|error: io::Error| error.to_string())
}

pub fn run() -> Result<(), String> {
    // Signals of a terminal reach our group; the end of the control connection is what counts.
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM, libc::SIGPIPE] {
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let socket =
        Socket::new(files::inherited(CONTROL_FD).map_err(|error| format!("descriptor {CONTROL_FD}: {error}"))?);
    let events = Arc::new(Events(Mutex::new(socket.clone())));
    let mut host = Host {
        events: events.clone(),
        uid: unsafe { libc::geteuid() },
        memory: None,
        door: None,
        monitor: None,
        vsock: None,
        vsock_counters: Arc::default(),
        nets: BTreeMap::new(),
        waiting: HashMap::new(),
        serial_counters: Arc::default(),
        owned: Vec::new(),
        copies: Vec::new(),
    };
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { break };
        let request: Value = serde_json::from_str(&line).map_err(|error| format!("a request is not JSON: {error}"))?;
        let answer = match host.obey(&request) {
            Ok(value) => json!({"id": request["id"], "return": value}),
            Err(error) => {
                json!({"id": request["id"], "error": error.to_string(), "errno": error.raw_os_error()})
            }
        };
        events.send(answer);
    }
    host.clean_up();
    Ok(())
}
