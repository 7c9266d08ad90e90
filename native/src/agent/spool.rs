//! A bounded buffer of a container's log with absolute offsets: kept until the daemon says that it has the bytes.
use super::lock;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

pub const CAPACITY: usize = 4 << 20;

struct State {
    /// Offset of the first byte held.
    base: u64,
    bytes: VecDeque<u8>,
    finished: bool,
    /// Set when the container is deleted: writers and readers return.
    abandoned: bool,
}

pub struct Spool {
    state: Mutex<State>,
    changed: Condvar,
}

pub enum Read {
    Bytes(Vec<u8>),
    End,
}

impl Spool {
    pub fn new() -> Spool {
        let state = State { base: 0, bytes: VecDeque::new(), finished: false, abandoned: false };
        Spool { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn wait<'a>(&self, state: std::sync::MutexGuard<'a, State>) -> std::sync::MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds whole log lines; waits while the spool is full, as a pipe would.
    pub fn append(&self, lines: &[u8]) {
        let mut state = lock(&self.state);
        while !state.abandoned && !state.bytes.is_empty() && state.bytes.len() + lines.len() > CAPACITY {
            state = self.wait(state);
        }
        if !state.abandoned {
            state.bytes.extend(lines);
        }
        self.changed.notify_all();
    }

    /// No more bytes will come.
    pub fn finish(&self) {
        lock(&self.state).finished = true;
        self.changed.notify_all();
    }

    pub fn abandon(&self) {
        lock(&self.state).abandoned = true;
        self.changed.notify_all();
    }

    /// Offset one past the last byte produced so far.
    pub fn end(&self) -> u64 {
        let state = lock(&self.state);
        state.base + state.bytes.len() as u64
    }

    /// The offsets that can be read: (first held, one past the last).
    pub fn range(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.base, state.base + state.bytes.len() as u64)
    }

    /// Bytes from `offset` on, at most `limit`; waits for some. `End` when all was read or `stop` says so.
    pub fn read(&self, offset: u64, limit: usize, stop: &dyn Fn() -> bool) -> Read {
        let mut state = lock(&self.state);
        loop {
            if state.abandoned || stop() || offset < state.base {
                return Read::End;
            }
            let skip = (offset - state.base) as usize;
            if skip < state.bytes.len() {
                return Read::Bytes(state.bytes.iter().skip(skip).take(limit).copied().collect());
            }
            if state.finished {
                return Read::End;
            }
            state = self.wait(state);
        }
    }

    /// Frees every byte below `offset`.
    pub fn acknowledge(&self, offset: u64) {
        let mut state = lock(&self.state);
        let count = offset.saturating_sub(state.base).min(state.bytes.len() as u64);
        state.bytes.drain(..count as usize);
        state.base += count;
        self.changed.notify_all();
    }

    /// Wakes readers so that they look at their `stop`.
    pub fn wake(&self) {
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spool: &Spool, offset: u64) -> Option<Vec<u8>> {
        match spool.read(offset, 1024, &|| false) {
            Read::Bytes(bytes) => Some(bytes),
            Read::End => None,
        }
    }

    #[test]
    fn offsets_are_absolute_and_acknowledged_bytes_are_gone() {
        let spool = Spool::new();
        spool.append(b"hello ");
        spool.append(b"world");
        assert_eq!(read(&spool, 0).unwrap(), b"hello world");
        assert_eq!(read(&spool, 6).unwrap(), b"world");
        spool.acknowledge(6);
        assert_eq!(spool.range(), (6, 11));
        assert_eq!(read(&spool, 6).unwrap(), b"world");
        assert!(read(&spool, 3).is_none());
        spool.finish();
        assert!(read(&spool, 11).is_none());
    }

    #[test]
    fn a_full_spool_blocks_until_acknowledged() {
        let spool = std::sync::Arc::new(Spool::new());
        spool.append(&vec![b'a'; CAPACITY]);
        let writer = std::thread::spawn({
            let spool = spool.clone();
            move || spool.append(b"tail")
        });
        assert_eq!(spool.end(), CAPACITY as u64);
        spool.acknowledge(10);
        writer.join().unwrap();
        assert_eq!(spool.end(), CAPACITY as u64 + 4);
    }
}
