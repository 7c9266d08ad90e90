//! The agent: supervises containers and answers the daemon, the same in a microVM and on the host.
pub mod cgroup;
pub mod container;
pub mod counters;
pub mod exec;
pub mod huge_pages;
pub mod input;
pub mod log;
pub mod mounts;
pub mod output;
pub mod pause;
pub mod pressure;
pub mod reaper;
pub mod runtime;
pub mod server;
pub mod spool;
pub mod stream;
pub mod vain_limits;
pub mod writable;

pub use crate::threads::lock;
use crate::{threads, wire};

/// An error with the protocol's code; the message names the field or the state.
#[derive(Debug)]
pub struct Fault {
    pub code: wire::error::Code,
    pub message: String,
}

pub type Outcome<T> = Result<T, Fault>;

impl Fault {
    pub fn new(code: wire::error::Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }
    pub fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(wire::error::Code::Invalid, message)
    }
    pub fn io(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Fault {
        Fault::new(wire::error::Code::Io, format!("{what}: {error}"))
    }
}

/// Starts a named thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Outcome<std::thread::JoinHandle<()>> {
    threads::spawn(name, body).map_err(|e| Fault::io("thread", e))
}
