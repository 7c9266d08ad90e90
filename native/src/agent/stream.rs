//! The sending side of a connection, shared by the threads that write frames to it.
use super::lock;
use crate::{frame, sys};
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone)]
pub struct FrameWriter {
    socket: Arc<Mutex<sys::Socket>>,
}

impl FrameWriter {
    pub fn new(socket: sys::Socket) -> FrameWriter {
        FrameWriter { socket: Arc::new(Mutex::new(socket)) }
    }

    pub fn send(&self, kind: frame::Kind, channel: u8, payload: &[u8]) -> io::Result<()> {
        let mut socket = lock(&self.socket);
        let sent = frame::write(&mut *socket, kind, channel, payload);
        if sent.is_err() {
            // Half a frame may be out: nothing that follows would be understood.
            socket.shutdown();
        }
        sent
    }

    pub fn message(&self, kind: frame::Kind, message: &impl prost::Message) -> io::Result<()> {
        self.send(kind, 0, &message.encode_to_vec())
    }

    pub fn same(&self, other: &FrameWriter) -> bool {
        Arc::ptr_eq(&self.socket, &other.socket)
    }
}
