//! Host directories in the guest: a FUSE mount each, whose messages go over vsock to `tinderbox-native fs` on the host.
use super::init::dial_host;
use crate::agent::{container::check_id, lock, spawn, Fault, Outcome};
use crate::{sys, wire};
use serde_json::{json, Value};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PORT: u32 = 1025;
const DIRECTORY: &str = "/run/tinderbox/volumes";
/// Requests of one volume that can be under way at once: a slow one holds up no more than its own thread.
const MAX_WORKERS: usize = 8;
/// 1 MiB of data and a page for what comes before it, as the server has it.
const MAX_MESSAGE: usize = (1 << 20) + 4096;
/// Times that this kernel is made to forget inodes for one request, and how long each has to be told to the server.
const FORGET_ATTEMPTS: u32 = 50;
const FORGET_PAUSE: Duration = Duration::from_millis(20);
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

// linux/prctl.h
const PR_SET_IO_FLUSHER: libc::c_int = 57;
// linux/fuse.h: what gets no reply.
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

#[derive(Default)]
pub struct Volumes {
    /// Volume id to the containers that use it.
    users: Mutex<HashMap<String, HashSet<String>>>,
}

fn mount_point(id: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(id)
}

impl Volumes {
    /// Mounts what is not mounted yet, for container `user`; the configuration with the guest's paths in it.
    pub fn prepare(&self, volumes: &[wire::Volume], config: &[u8], user: &str) -> Outcome<Vec<u8>> {
        let mut paths = HashMap::new();
        for volume in volumes {
            check_id(&volume.id)?;
            paths.insert(volume.name.as_str(), self.mount(volume, user)?);
        }
        let mut config: Value =
            serde_json::from_slice(config).map_err(|e| Fault::invalid(format!("config_json is not JSON: {e}")))?;
        for mount in config.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(name) = mount["source"].as_str().and_then(|source| source.strip_prefix("@volumes/")) else {
                continue;
            };
            let path =
                paths.get(name).ok_or_else(|| Fault::invalid(format!("mount source @volumes/{name}: no volume")))?;
            mount["source"] = json!(path);
        }
        serde_json::to_vec(&config).map_err(|e| Fault::invalid(format!("config_json: {e}")))
    }

    fn mount(&self, volume: &wire::Volume, user: &str) -> Outcome<PathBuf> {
        let mut users = lock(&self.users);
        let path = mount_point(&volume.id);
        if let Some(present) = users.get_mut(&volume.id) {
            present.insert(user.to_owned());
            return Ok(path);
        }
        let failed = |e: io::Error| Fault::io(format!("volume {}", volume.id), e);
        fs::create_dir_all(DIRECTORY).map_err(failed)?;
        if volume.file {
            fs::File::create(&path).map_err(failed)?;
        } else {
            fs::create_dir_all(&path).map_err(failed)?;
        }
        mount_fuse(volume, &path).map_err(|e| {
            remove_mount_point(&path);
            failed(e)
        })?;
        users.insert(volume.id.clone(), HashSet::from([user.to_owned()]));
        Ok(path)
    }

    /// Container `user` does not need its volumes any more; the last user's end is the mount's.
    pub fn release(&self, user: &str) {
        let mut users = lock(&self.users);
        users.retain(|id, using| {
            using.remove(user);
            if using.is_empty() {
                let path = mount_point(id);
                let _ = sys::unmount(&path);
                remove_mount_point(&path);
            }
            !using.is_empty()
        });
    }
}

fn remove_mount_point(path: &PathBuf) {
    let _ = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
}

/// A connection to the server, at the volume.
fn connect(id: &str) -> io::Result<sys::Socket> {
    let mut socket = dial_host(PORT)?;
    socket.write_all(format!("{id}\n").as_bytes())?;
    let mut answer = [0; 3];
    socket.read_exact(&mut answer)?;
    if answer != *b"ok\n" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the server's answer is not ok"));
    }
    Ok(socket)
}

fn mount_fuse(volume: &wire::Volume, path: &std::path::Path) -> io::Result<()> {
    let (lifeline, socket) = (connect(&volume.id)?, connect(&volume.id)?);
    let device: OwnedFd = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into();
    let kind = if volume.file { libc::S_IFREG } else { libc::S_IFDIR };
    let data =
        format!("fd={},rootmode={kind:o},user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
    let flags = libc::MS_NODEV | if volume.readonly { libc::MS_RDONLY } else { 0 };
    sys::mount("tinderbox", path, "fuse", flags, &data)?;
    let pump = Arc::new(Pump {
        device,
        id: volume.id.clone(),
        workers: AtomicUsize::new(1),
        idle: AtomicUsize::new(0),
        is_broken: AtomicBool::new(false),
        sockets: Mutex::new(vec![lifeline.clone(), socket.clone()]),
    });
    let watched = pump.clone();
    let started = spawn("volume-end", move || watched.watch(lifeline));
    started.and_then(|_| spawn("volume", move || pump.work(socket))).map(|_| ()).map_err(|fault| {
        let _ = sys::unmount(path);
        io::Error::other(fault.message)
    })
}

/// Moves the messages of one mount. When the server is gone, every request is answered with EIO until the unmount.
struct Pump {
    device: OwnedFd,
    id: String,
    workers: AtomicUsize,
    idle: AtomicUsize,
    is_broken: AtomicBool,
    sockets: Mutex<Vec<sys::Socket>>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// One request to the server and its reply, if it has one, into `buffer`: the reply's length.
fn exchange(socket: &mut sys::Socket, buffer: &mut [u8], length: usize, has_reply: bool) -> io::Result<usize> {
    socket.write_all(&buffer[..length])?;
    if !has_reply {
        return Ok(0);
    }
    let unique: [u8; 8] = buffer[8..16].try_into().unwrap_or_default();
    socket.read_exact(&mut buffer[..OUT_HEADER])?;
    let length = word(buffer, 0) as usize;
    if !(OUT_HEADER..=buffer.len()).contains(&length) || buffer[8..16] != unique {
        return Err(io::ErrorKind::InvalidData.into());
    }
    socket.read_exact(&mut buffer[OUT_HEADER..length])?;
    Ok(length)
}

fn refuse(buffer: &mut [u8]) -> usize {
    buffer[..4].copy_from_slice(&(OUT_HEADER as u32).to_ne_bytes());
    buffer[4..8].copy_from_slice(&(-libc::EIO).to_ne_bytes());
    OUT_HEADER
}

impl Pump {
    /// A connection that carries nothing tells when the server is gone: the end of one with bytes on their way can get
    /// lost in the vsock device.
    fn watch(&self, mut lifeline: sys::Socket) {
        let _ = lifeline.read(&mut [0]);
        self.break_off();
    }

    /// Nothing goes to the server any more, and who waits for it waits no longer.
    fn break_off(&self) {
        self.is_broken.store(true, Ordering::Release);
        for socket in lock(&self.sockets).iter() {
            socket.shutdown();
        }
    }

    fn work(self: &Arc<Self>, mut socket: sys::Socket) {
        // Memory is never freed by writing to a volume when a thread that serves volumes wants some.
        unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
        let mut buffer = vec![0u8; MAX_MESSAGE];
        loop {
            self.idle.fetch_add(1, Ordering::AcqRel);
            let read = sys::read_fd(self.device.as_raw_fd(), &mut buffer);
            let was_last = self.idle.fetch_sub(1, Ordering::AcqRel) == 1;
            let length = match read {
                Ok(length) if length >= IN_HEADER => length,
                // ENOENT: the request was interrupted before it was read. Everything else is the unmount.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                _ => return self.break_off(),
            };
            if was_last {
                self.grow();
            }
            let opcode = word(&buffer, 4);
            if opcode == INTERRUPT {
                continue;
            }
            let has_reply = opcode != FORGET && opcode != BATCH_FORGET;
            let done = self.serve(&mut socket, &mut buffer, length, has_reply);
            let length = done.unwrap_or_else(|_| {
                self.break_off();
                refuse(&mut buffer)
            });
            if has_reply {
                // One write is one reply. An error means that nobody waits for it any more.
                let _ = sys::write_fd(self.device.as_raw_fd(), &buffer[..length]);
            }
        }
    }

    /// One request and its reply. The server holds a file open for every inode that this kernel remembers, and has a bound:
    /// when that is reached, the kernel forgets what it can, and the request goes out again.
    fn serve(&self, socket: &mut sys::Socket, buffer: &mut [u8], length: usize, has_reply: bool) -> io::Result<usize> {
        let mut header = [0; OUT_HEADER];
        header.copy_from_slice(&buffer[..OUT_HEADER]);
        for attempt in 0..=FORGET_ATTEMPTS {
            if self.is_broken.load(Ordering::Acquire) {
                break;
            }
            let answered = exchange(socket, buffer, length, has_reply)?;
            let is_full = answered == OUT_HEADER && word(buffer, 4) as i32 == -libc::EMFILE;
            if !has_reply || !is_full || attempt == FORGET_ATTEMPTS {
                return Ok(answered);
            }
            // Dentries and inodes. What is forgotten is told by other threads, so it may take a moment.
            fs::write("/proc/sys/vm/drop_caches", "2")?;
            std::thread::sleep(FORGET_PAUSE);
            buffer[..OUT_HEADER].copy_from_slice(&header);
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }

    /// One more thread, as the last idle one has just got something to do.
    fn grow(self: &Arc<Self>) {
        if self.workers.fetch_add(1, Ordering::AcqRel) >= MAX_WORKERS {
            self.workers.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let pump = self.clone();
        let started = spawn("volume", move || match connect(&pump.id) {
            Ok(socket) => {
                lock(&pump.sockets).push(socket.clone());
                pump.work(socket);
            }
            Err(_) => drop(pump.workers.fetch_sub(1, Ordering::AcqRel)),
        });
        if started.is_err() {
            self.workers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
