//! The back end's side of vhost-user (QEMU docs/interop/vhost-user.rst), for devices that live in this process: one thread a
//! device, which serves the control socket, the rings and whatever else the device waits for.
use super::memory::{Memory, RegionLayout};
use super::queue::{signal_event, Queue};
use crate::sys::{check, Socket};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

pub const F_EVENT_INDEX: u64 = 1 << 29;
pub const F_VERSION_1: u64 = 1 << 32;
const F_NOTIFY_ON_EMPTY: u64 = 1 << 24;
const F_LOG_ALL: u64 = 1 << 26;
const F_ANY_LAYOUT: u64 = 1 << 27;
const F_INDIRECT: u64 = 1 << 28;
pub const F_PROTOCOL: u64 = 1 << 30;
/// What every device here has. The log of written pages is never needed: a machine is only saved while its rings stand still.
const COMMON_FEATURES: u64 =
    F_NOTIFY_ON_EMPTY | F_LOG_ALL | F_ANY_LAYOUT | F_INDIRECT | F_EVENT_INDEX | F_PROTOCOL | F_VERSION_1;

const PROTOCOL_LOG_SHMFD: u64 = 1 << 1;
const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
const PROTOCOL_CONFIG: u64 = 1 << 9;

const MAX_FDS: usize = 8;
const MAX_PAYLOAD: usize = 4096;
const FLAG_REPLY: u32 = 0b101;
const FLAG_NEED_REPLY: u32 = 0b1000;

/// Tokens of a device's own descriptors start here
pub const DEVICE_TOKENS: u64 = 1 << 16;
const TOKEN_CONTROL: u64 = 0;
const TOKEN_KICK: u64 = 1;

pub enum Event {
    /// The guest may have put something into a ring
    Kick,
    /// One of the device's own descriptors is ready
    Ready { token: u64, events: u32 },
    /// The time that `deadline` named has come
    Deadline,
    /// A ring has begun to run
    Started,
    /// A ring is about to stop
    Stopped,
}

pub trait Device {
    fn features(&self) -> u64;
    fn queue_count(&self) -> usize;
    fn config(&self) -> Vec<u8>;
    fn handle(&mut self, rings: &mut Rings, event: Event);
    fn deadline(&self) -> Option<Instant>;
}

pub struct Poll(OwnedFd);

impl Poll {
    pub fn new() -> io::Result<Poll> {
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Poll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) }).map(|_| ())
    }

    /// Waits for `events` of `fd`, as `token`; a second call changes what is waited for.
    pub fn watch(&self, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        match self.control(libc::EPOLL_CTL_MOD, fd, token, events) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.control(libc::EPOLL_CTL_ADD, fd, token, events)
            }
            other => other,
        }
    }

    pub fn forget(&self, fd: RawFd) {
        // It may not be there.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<(u64, u32)>> {
        let timeout = deadline.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            // Rounded up: waking too early would spin.
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 64, timeout) };
        match check(count) {
            Ok(count) => Ok(events[..count as usize].iter().map(|event| (event.u64, event.events)).collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// What the front end set up: memory, rings, the agreed features.
pub struct Rings {
    pub memory: Memory,
    pub queues: Vec<Queue>,
    pub features: u64,
    pub poll: Poll,
    /// Where the rings stood when the machine was saved; taken instead of what the front end says at the next start
    pub restored_bases: Option<Vec<u16>>,
}

impl Rings {
    pub fn new(queue_count: usize) -> io::Result<Rings> {
        let queues = (0..queue_count).map(|_| Queue::default()).collect();
        Ok(Rings { memory: Memory::default(), queues, features: 0, poll: Poll::new()?, restored_bases: None })
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(kick) = self.queues[index].kick.take() {
            self.poll.forget(kick.as_raw_fd());
        }
        self.queues[index].stop();
    }
}

struct Message {
    request: u32,
    flags: u32,
    payload: Vec<u8>,
    fds: Vec<OwnedFd>,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads up to `bytes` with the descriptors that come along; an empty answer is the end.
pub fn receive(socket: RawFd, bytes: usize, fds: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; bytes];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: bytes };
    let mut control = [0u64; 16];
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut vector, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), std::mem::size_of_val(&control));
    let count = loop {
        let count = unsafe { libc::recvmsg(socket, &mut header, libc::MSG_CMSG_CLOEXEC) };
        if count >= 0 {
            break count as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    unsafe {
        let mut item = libc::CMSG_FIRSTHDR(&header);
        while !item.is_null() {
            if (*item).cmsg_level == libc::SOL_SOCKET && (*item).cmsg_type == libc::SCM_RIGHTS {
                let length = (*item).cmsg_len - libc::CMSG_LEN(0) as usize;
                for at in 0..length / 4 {
                    let fd = libc::CMSG_DATA(item).cast::<RawFd>().add(at).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            item = libc::CMSG_NXTHDR(&header, item);
        }
    }
    buffer.truncate(count);
    Ok(buffer)
}

fn read_message(socket: RawFd) -> io::Result<Option<Message>> {
    let mut fds = Vec::new();
    let mut read_all = |bytes: usize| -> io::Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(bytes);
        while whole.len() < bytes {
            let part = receive(socket, bytes - whole.len(), &mut fds)?;
            if part.is_empty() {
                break;
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    };
    let header = read_all(12)?;
    if header.len() < 12 {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (request, flags, size) = (word(0), word(4), word(8) as usize);
    if size > MAX_PAYLOAD {
        return Err(invalid("a vhost-user message is too long"));
    }
    let payload = read_all(size)?;
    if payload.len() < size || fds.len() > MAX_FDS {
        return Err(invalid("a vhost-user message is cut off"));
    }
    Ok(Some(Message { request, flags, payload, fds }))
}

impl Message {
    fn u32_at(&self, at: usize) -> io::Result<u32> {
        let bytes = self.payload.get(at..at + 4).ok_or_else(|| invalid("a vhost-user message is too short"))?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
    fn u64_at(&self, at: usize) -> io::Result<u64> {
        Ok(u64::from(self.u32_at(at)?) | u64::from(self.u32_at(at + 4)?) << 32)
    }
    fn queue(&self, rings: &Rings, index: u32) -> io::Result<usize> {
        Some(index as usize).filter(|&at| at < rings.queues.len()).ok_or_else(|| invalid("there is no such ring"))
    }
}

fn reply(socket: &Socket, request: u32, payload: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(12 + payload.len());
    for word in [request, FLAG_REPLY, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    socket.clone().write_all(&bytes)
}

/// Serves one front end until it hangs up. `on_wake` is called whenever `wake` is readable.
pub fn serve<D: Device>(socket: &Socket, rings: &mut Rings, device: &mut D) -> io::Result<()> {
    rings.poll.watch(socket.raw(), TOKEN_CONTROL, libc::EPOLLIN as u32)?;
    loop {
        let deadline = device.deadline();
        let events = rings.poll.wait(deadline)?;
        if deadline.is_some_and(|at| at <= Instant::now()) {
            device.handle(rings, Event::Deadline);
        }
        for (token, events) in events {
            if token == TOKEN_CONTROL {
                let Some(message) = read_message(socket.raw())? else { return Ok(()) };
                obey(socket, rings, device, message)?;
            } else if token >= DEVICE_TOKENS {
                device.handle(rings, Event::Ready { token, events });
            } else if let Some(index) = token.checked_sub(TOKEN_KICK).map(|at| at as usize) {
                let Some(kick) = rings.queues.get(index).and_then(|queue| queue.kick.as_ref()) else { continue };
                let mut count = 0u64;
                unsafe { libc::read(kick.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
                device.handle(rings, Event::Kick);
            }
        }
    }
}

fn obey<D: Device>(socket: &Socket, rings: &mut Rings, device: &mut D, mut message: Message) -> io::Result<()> {
    let number = |value: u64| value.to_le_bytes().to_vec();
    let mut answer = None;
    match message.request {
        1 => answer = Some(number(device.features() | COMMON_FEATURES)),
        2 => {
            rings.features = message.u64_at(0)?;
            // Without the protocol features a ring is on from the start.
            if rings.features & F_PROTOCOL == 0 {
                rings.queues.iter_mut().for_each(|queue| queue.is_enabled = true);
            }
        }
        5 => {
            let count = message.u32_at(0)? as usize;
            if count > message.fds.len() {
                return Err(invalid("a memory region has no descriptor"));
            }
            let mut memory = Memory::default();
            for at in 0..count {
                let field = |index: usize| message.u64_at(8 + at * 32 + index * 8);
                let layout = RegionLayout {
                    guest_addr: field(0)?,
                    size: field(1)?,
                    user_addr: field(2)?,
                    file_offset: field(3)?,
                };
                memory.add(layout, &message.fds[at])?;
            }
            for index in 0..rings.queues.len() {
                rings.queues[index].stop();
            }
            rings.memory = memory;
            let has_event_index = rings.features & F_EVENT_INDEX != 0;
            let Rings { memory, queues, .. } = rings;
            for queue in queues.iter_mut().filter(|queue| queue.kick.is_some()) {
                queue.start(memory, has_event_index);
            }
        }
        6 => answer = Some(number(0)),
        8 => {
            let index = message.queue(rings, message.u32_at(0)?)?;
            rings.queues[index].size = message.u32_at(4)? as u16;
        }
        9 => {
            let index = message.queue(rings, message.u32_at(0)?)?;
            rings.queues[index].addresses = (message.u64_at(8)?, message.u64_at(16)?, message.u64_at(24)?);
        }
        10 => {
            let index = message.queue(rings, message.u32_at(0)?)?;
            let base = rings.restored_bases.as_ref().and_then(|bases| bases.get(index)).copied();
            rings.queues[index].next_available = base.unwrap_or(message.u32_at(4)? as u16);
        }
        11 => {
            let index = message.queue(rings, message.u32_at(0)?)?;
            device.handle(rings, Event::Stopped);
            rings.stop_queue(index);
            let mut state = (index as u32).to_le_bytes().to_vec();
            state.extend_from_slice(&u32::from(rings.queues[index].next_available).to_le_bytes());
            answer = Some(state);
        }
        12 => {
            let index = message.queue(rings, message.u32_at(0)? & 0xff)?;
            let kick = message.fds.pop().ok_or_else(|| invalid("a ring without a kick descriptor"))?;
            rings.stop_queue(index);
            rings.poll.watch(kick.as_raw_fd(), TOKEN_KICK + index as u64, libc::EPOLLIN as u32)?;
            let has_event_index = rings.features & F_EVENT_INDEX != 0;
            let Rings { memory, queues, .. } = rings;
            queues[index].kick = Some(kick);
            if queues[index].start(memory, has_event_index) && queues[index].is_enabled {
                device.handle(rings, Event::Started);
            }
        }
        13 => {
            let index = message.queue(rings, message.u32_at(0)? & 0xff)?;
            rings.queues[index].call = message.fds.pop();
            // What was signalled on the one before may have been dropped with it.
            if let Some(call) = rings.queues[index].call.as_ref().filter(|_| rings.queues[index].is_running()) {
                signal_event(call);
            }
        }
        15 => {
            let config = if device.config().is_empty() { 0 } else { PROTOCOL_CONFIG };
            answer = Some(number(PROTOCOL_LOG_SHMFD | PROTOCOL_REPLY_ACK | config));
        }
        17 => answer = Some(number(rings.queues.len() as u64)),
        18 => {
            let index = message.queue(rings, message.u32_at(0)?)?;
            rings.queues[index].is_enabled = message.u32_at(4)? == 1;
            if rings.queues[index].is_running() {
                device.handle(rings, Event::Started);
            }
        }
        24 => {
            let (offset, size) = (message.u32_at(0)? as usize, message.u32_at(4)? as usize);
            let mut config = device.config();
            config.resize(config.len().max((offset + size).min(MAX_PAYLOAD)), 0);
            let part = config.get(offset..offset + size).ok_or_else(|| invalid("no such configuration"))?;
            let head = message.payload.get(..12).ok_or_else(|| invalid("a vhost-user message is too short"))?;
            answer = Some([head, part].concat());
        }
        // Owner, reset, log descriptor, error descriptor, protocol features, RARP, MTU, configuration: nothing to do.
        3 | 4 | 7 | 14 | 16 | 19 | 20 | 25 | 34 => {}
        other => return Err(invalid(&format!("vhost-user request {other} is unknown"))),
    }
    if answer.is_none() && message.flags & FLAG_NEED_REPLY != 0 {
        answer = Some(number(0));
    }
    answer.map_or(Ok(()), |payload| reply(socket, message.request, &payload))
}
