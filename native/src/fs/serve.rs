//! The guest's connections. Each begins with the id of a volume and a newline, is answered `ok\n` or closed, and then
//! carries FUSE messages as /dev/fuse has them: one request, its reply, the next. Requests go on side by side by having
//! connections side by side.
use super::gate::{self, Verdict, HEADER, MAX_MESSAGE};
use super::ids::Ids;
use super::volume::Volume;
use super::{is_id, VOLUMES};
use crate::sys::Socket;
use crate::threads::{lock, spawn};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Of all volumes together; one volume may have MAX_SHARES of them.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of one volume: the guest has up to 8 with requests, each with at most two messages in memory, 2 MiB and a
/// little, and one without.
const MAX_SHARES: usize = 9;
/// A message of this size or more makes a connection give its memory back when nothing follows within IDLE.
const LARGE: usize = 256 << 10;
const IDLE_MS: i32 = 1000;

pub type VolumeServer = Server<Volume>;

#[derive(Default)]
struct Volumes {
    /// A volume lives as long as a connection to it: with the last one, all that the guest held open is closed.
    open: Mutex<HashMap<String, Weak<VolumeServer>>>,
    connections: AtomicUsize,
}

impl Volumes {
    fn open(&self, id: &str) -> io::Result<Arc<VolumeServer>> {
        let mut open = lock(&self.open);
        if let Some(volume) = open.get(id).and_then(Weak::upgrade) {
            // One more is ours already.
            return if Arc::strong_count(&volume) > MAX_SHARES {
                Err(io::ErrorKind::QuotaExceeded.into())
            } else {
                Ok(volume)
            };
        }
        open.retain(|_, volume| volume.strong_count() > 0);
        let volume = Arc::new(Server::new(Volume::open(&format!("{VOLUMES}/{id}"), Ids::read(id)?)?));
        open.insert(id.to_owned(), Arc::downgrade(&volume));
        Ok(volume)
    }
}

fn read_id(socket: &mut Socket) -> Option<String> {
    let mut id = Vec::new();
    let mut byte = [0];
    while id.len() <= 32 {
        socket.read_exact(&mut byte).ok()?;
        if byte[0] == b'\n' {
            return String::from_utf8(id).ok().filter(|id| is_id(id));
        }
        id.push(byte[0]);
    }
    None
}

/// Serves one request; an error ends the connection.
pub fn answer(volume: &VolumeServer, socket: &Socket, request: &mut [u8], reply: &mut [u8]) -> io::Result<()> {
    let mut sink = socket.clone();
    match gate::judge(request) {
        Verdict::Ignore => Ok(()),
        Verdict::Refuse(errno) => sink.write_all(&gate::error_reply(gate::unique(request), errno)),
        Verdict::Init => sink.write_all(&gate::init_reply(request)),
        Verdict::Pass => {
            let broken = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
            let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).map_err(|e| broken(&e))?;
            let writer = FuseDevWriter::<()>::new(socket.raw(), reply).map_err(|e| broken(&e))?;
            volume.handle_message(reader, writer.into(), None, None).map(|_| ()).map_err(|e| broken(&e))
        }
    }
}

fn converse(volumes: &Volumes, mut socket: Socket) -> io::Result<()> {
    let Some(id) = read_id(&mut socket) else { return Ok(()) };
    let volume = volumes.open(&id)?;
    socket.write_all(b"ok\n")?;
    // Zeroed by the kernel, and no memory until it is written to.
    let (mut request, mut reply) = (vec![0u8; MAX_MESSAGE], vec![0u8; MAX_MESSAGE]);
    let mut is_large = false;
    loop {
        if is_large && !is_readable(&socket, IDLE_MS) {
            give_back(&mut request);
            give_back(&mut reply);
            is_large = false;
        }
        let mut header = [0; HEADER];
        socket.read_exact(&mut header)?;
        let Some(length) = gate::length(&header) else { return Ok(()) };
        request[..HEADER].copy_from_slice(&header);
        socket.read_exact(&mut request[HEADER..length])?;
        is_large |= length >= LARGE || gate::wanted(&request[..length]) >= LARGE;
        answer(&volume, &socket, &mut request[..length], &mut reply)?;
    }
}

fn is_readable(socket: &Socket, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: socket.raw(), events: libc::POLLIN, revents: 0 };
    unsafe { libc::poll(&mut poll, 1, timeout_ms) > 0 }
}

/// The pages of a buffer go to the kernel; it reads as zeros afterwards.
fn give_back(buffer: &mut [u8]) {
    const PAGE: usize = 4096;
    let start = (buffer.as_mut_ptr() as usize).next_multiple_of(PAGE);
    let end = (buffer.as_mut_ptr() as usize + buffer.len()) / PAGE * PAGE;
    unsafe { libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED) };
}

/// Serves every connection in a thread of its own; never returns.
pub fn accept_loop(listener: &UnixListener) -> ! {
    let volumes = Arc::new(Volumes::default());
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors or memory: there is no event for their return.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let socket = Socket::new(stream.into());
        if volumes.connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            volumes.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = volumes.clone();
        let started = spawn("volume", move || {
            let _ = converse(&shared, socket.clone());
            socket.shutdown();
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            volumes.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
