//! One vsock stream between a guest's port and a unix socket on the host: states, credit, and the bytes that the host has not
//! taken yet. A half-closed stream is not carried, as with Firecracker: the host's end ends both directions, and the host
//! sees an end only when the guest has closed.
use super::vsock_packet::*;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes that a connection holds for the host at most; what the guest is told as its credit
pub const BUFFER_BYTES: u32 = 64 * 1024;
/// With less credit left than this in the guest's eyes it is told anew.
const CREDIT_THRESHOLD: u32 = 4 * 1024;
/// For the guest's answer to a request, and for an orderly end
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum State {
    /// The host asked; the guest has not answered
    Requested,
    /// The guest asked and is to be answered
    Accepted,
    Established,
    /// The host has closed; the guest is to hear it, or has heard
    HostClosed {
        is_told: bool,
    },
    /// The guest will not receive, will not send any more
    GuestClosed {
        receive: bool,
        send: bool,
    },
    /// Only the reset is still to be sent
    Dead,
}

pub struct Connection {
    pub stream: UnixStream,
    pub state: State,
    /// Where the host asked: the connection's number is sent as `OK n` when the guest answers
    is_from_host: bool,
    host_port: u32,
    must_request: bool,
    must_update_credit: bool,
    /// The guest was asked for credit and has given none yet
    has_asked_for_credit: bool,
    has_input: bool,
    to_host: VecDeque<u8>,
    /// Bytes the host has taken, and what the guest was told of that
    forwarded: u32,
    told_forwarded: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Bytes the guest was sent
    sent: u32,
    pub deadline: Option<Instant>,
    /// What is waited for on the stream (epoll events)
    pub watched: u32,
    pub token: u64,
    /// Whether it waits for its turn to send
    pub is_queued: bool,
}

/// What a connection wants to send next.
pub enum Next {
    Nothing,
    Packet {
        op: u16,
        flags: u32,
    },
    /// At most so many bytes of the stream
    Data(usize),
}

impl Connection {
    pub fn from_host(stream: UnixStream, host_port: u32) -> Connection {
        Connection::new(stream, State::Requested, host_port, true)
    }

    pub fn from_guest(stream: UnixStream, host_port: u32, request: &Header) -> Connection {
        let mut connection = Connection::new(stream, State::Accepted, host_port, false);
        connection.take_credit(request);
        connection
    }

    fn new(stream: UnixStream, state: State, host_port: u32, is_from_host: bool) -> Connection {
        Connection {
            stream,
            state,
            is_from_host,
            host_port,
            must_request: is_from_host,
            must_update_credit: false,
            has_asked_for_credit: false,
            has_input: false,
            to_host: VecDeque::new(),
            forwarded: 0,
            told_forwarded: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            sent: 0,
            deadline: None,
            watched: 0,
            token: 0,
            is_queued: false,
        }
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = header.fwd_cnt;
        if self.credit() > 0 {
            self.has_asked_for_credit = false;
        }
    }

    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    fn guest_receives(&self) -> bool {
        matches!(self.state, State::Established | State::GuestClosed { receive: false, .. })
    }

    /// What to wait for on the stream.
    pub fn wanted(&self) -> u32 {
        let mut events = 0;
        if self.state == State::Dead {
            return events;
        }
        if self.guest_receives() && !self.has_input {
            events |= libc::EPOLLIN as u32;
        }
        if !self.to_host.is_empty() {
            events |= libc::EPOLLOUT as u32;
        }
        events
    }

    pub fn input_is_ready(&mut self) {
        self.has_input = true;
    }

    /// What goes to the guest next; `sent_*` says that it went.
    pub fn next(&self) -> Next {
        let packet = |op| Next::Packet { op, flags: 0 };
        match self.state {
            State::Dead => return packet(OP_RST),
            State::Requested if self.must_request => return packet(OP_REQUEST),
            State::Requested => return Next::Nothing,
            State::Accepted => return packet(OP_RESPONSE),
            State::HostClosed { is_told: false } => {
                return Next::Packet { op: OP_SHUTDOWN, flags: SHUTDOWN_RECEIVE | SHUTDOWN_SEND }
            }
            _ => {}
        }
        if self.has_input && self.guest_receives() {
            if self.credit() > 0 {
                return Next::Data(self.credit() as usize);
            }
            if !self.has_asked_for_credit {
                return packet(OP_CREDIT_REQUEST);
            }
        }
        if self.must_update_credit {
            return packet(OP_CREDIT_UPDATE);
        }
        Next::Nothing
    }

    /// The header of a packet of this connection. Whatever is sent tells the guest its credit.
    pub fn header(&mut self, guest_cid: u64, guest_port: u32, op: u16, flags: u32, len: u32) -> Header {
        self.told_forwarded = self.forwarded;
        self.must_update_credit = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.host_port,
            dst_port: guest_port,
            len,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: BUFFER_BYTES,
            fwd_cnt: self.forwarded,
        }
    }

    /// @returns whether the connection is over
    pub fn packet_was_sent(&mut self, op: u16) -> bool {
        match op {
            OP_REQUEST => {
                self.must_request = false;
                self.deadline = Some(Instant::now() + PATIENCE);
            }
            OP_RESPONSE => self.state = State::Established,
            OP_SHUTDOWN => {
                self.state = State::HostClosed { is_told: true };
                self.deadline = Some(Instant::now() + PATIENCE);
            }
            OP_CREDIT_REQUEST => self.has_asked_for_credit = true,
            OP_RST => return true,
            _ => {}
        }
        false
    }

    /// The outcome of reading the stream for the guest.
    pub fn data_was_read(&mut self, result: &io::Result<usize>) {
        match result {
            Ok(0) => self.state = State::HostClosed { is_told: false },
            Ok(count) => self.sent = self.sent.wrapping_add(*count as u32),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.has_input = false;
            }
            Err(_) => self.state = State::Dead,
        }
    }

    /// Takes a packet of the guest; its payload is read by `payload`, which copies from an offset.
    pub fn packet_came(&mut self, header: &Header, payload: &[u8]) {
        self.take_credit(header);
        match (header.op, self.state) {
            (OP_RESPONSE, State::Requested) => {
                self.deadline = None;
                self.state = State::Established;
                let line = format!("OK {}\n", self.host_port);
                if self.is_from_host && self.stream.write_all(line.as_bytes()).is_err() {
                    self.state = State::HostClosed { is_told: false };
                }
            }
            (OP_RW, State::Established | State::GuestClosed { send: false, .. }) => self.take_data(payload),
            (OP_RW, State::HostClosed { .. }) => {}
            (OP_SHUTDOWN, State::Established) => self.guest_closes(header, false, false),
            (OP_SHUTDOWN, State::GuestClosed { receive, send }) => self.guest_closes(header, receive, send),
            (OP_SHUTDOWN, State::HostClosed { .. }) => self.state = State::Dead,
            (OP_CREDIT_REQUEST, _) => self.must_update_credit = true,
            (OP_CREDIT_UPDATE, _) => {}
            _ => self.state = State::Dead,
        }
    }

    fn guest_closes(&mut self, header: &Header, receive: bool, send: bool) {
        let receive = receive || header.flags & SHUTDOWN_RECEIVE != 0;
        let send = send || header.flags & SHUTDOWN_SEND != 0;
        self.state = State::GuestClosed { receive, send };
        if receive && send {
            if self.to_host.is_empty() {
                self.state = State::Dead;
            } else {
                self.deadline = Some(Instant::now() + PATIENCE);
            }
        }
    }

    fn take_data(&mut self, mut bytes: &[u8]) {
        if self.to_host.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => {
                    self.note_forwarded(count);
                    bytes = &bytes[count..];
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return self.state = State::Dead,
            }
        }
        if self.to_host.len() + bytes.len() > BUFFER_BYTES as usize {
            // The guest sent more than its credit.
            self.state = State::Dead;
        } else {
            self.to_host.extend(bytes);
        }
    }

    fn note_forwarded(&mut self, count: usize) {
        self.forwarded = self.forwarded.wrapping_add(count as u32);
        let unseen = self.forwarded.wrapping_sub(self.told_forwarded);
        if BUFFER_BYTES.saturating_sub(unseen) < CREDIT_THRESHOLD * 12 {
            self.must_update_credit = true;
        }
    }

    /// The host takes bytes again.
    pub fn flush(&mut self) {
        while !self.to_host.is_empty() {
            let (first, _) = self.to_host.as_slices();
            match self.stream.write(first) {
                Ok(count) => {
                    self.to_host.drain(..count);
                    self.note_forwarded(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.to_host.clear();
                    return self.state = State::Dead;
                }
            }
        }
        if self.state == (State::GuestClosed { receive: true, send: true }) {
            self.state = State::Dead;
        }
    }

    pub fn expire(&mut self) {
        self.deadline = None;
        self.state = State::Dead;
    }
}

/// Reads the host's `CONNECT port\n`, byte by byte at its end so that nothing behind it is taken. Ok(None): more is to come.
pub fn read_connect(stream: &mut UnixStream, so_far: &mut Vec<u8>) -> io::Result<Option<u32>> {
    loop {
        if so_far.len() >= 32 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // "CONNECT " and one digit are there in any case.
        let mut chunk = [0u8; 9];
        let wanted = if so_far.len() < 9 { 9 - so_far.len() } else { 1 };
        match stream.read(&mut chunk[..wanted]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => so_far.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if so_far.last() == Some(&b'\n') {
            let line = std::str::from_utf8(so_far).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut words = line.split_whitespace();
            let is_connect = words.next().is_some_and(|word| word.eq_ignore_ascii_case("connect"));
            let port = words.next().and_then(|word| word.parse().ok());
            return match port.filter(|_| is_connect) {
                Some(port) => Ok(Some(port)),
                None => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}
