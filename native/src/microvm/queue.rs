//! One split virtqueue (virtio 1.1, section 2.6), device side. Everything in it is the guest's and may be wrong: a broken ring
//! stops the queue, never us.
use super::memory::{Memory, Piece};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{fence, Ordering};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// More descriptors than any chain of a real driver has
const MAX_CHAIN: usize = 1024;

/// A request of the guest: what we may read, then what we may write.
pub struct Chain {
    pub head: u16,
    pub readable: Vec<Piece>,
    pub writable: Vec<Piece>,
}

impl Chain {
    pub fn readable_bytes(&self) -> usize {
        self.readable.iter().map(|piece| piece.bytes).sum()
    }
    pub fn writable_bytes(&self) -> usize {
        self.writable.iter().map(|piece| piece.bytes).sum()
    }
}

struct Rings {
    descriptors: Piece,
    available: Piece,
    used: Piece,
}

#[derive(Default)]
pub struct Queue {
    pub size: u16,
    /// QEMU's addresses of descriptors, used and available ring
    pub addresses: (u64, u64, u64),
    pub next_available: u16,
    next_used: u16,
    signalled_used: Option<u16>,
    pub kick: Option<OwnedFd>,
    pub call: Option<OwnedFd>,
    pub is_enabled: bool,
    has_event_index: bool,
    rings: Option<Rings>,
}

#[derive(Debug, PartialEq)]
pub struct Broken;

impl Queue {
    pub fn is_running(&self) -> bool {
        self.rings.is_some() && self.is_enabled
    }

    /// Finds the rings in memory. @returns whether they are there
    pub fn start(&mut self, memory: &Memory, has_event_index: bool) -> bool {
        let size = u64::from(self.size);
        if self.size == 0 || !self.size.is_power_of_two() || self.size > 32768 {
            return false;
        }
        let (descriptors, used, available) = self.addresses;
        let found = (|| {
            Some(Rings {
                descriptors: memory.at_user(descriptors, size * 16)?,
                available: memory.at_user(available, size * 2 + 6)?,
                used: memory.at_user(used, size * 8 + 6)?,
            })
        })();
        let Some(rings) = found.filter(|rings| {
            rings.available.start.cast::<u16>().is_aligned() && rings.used.start.cast::<u32>().is_aligned()
        }) else {
            return false;
        };
        self.next_used = rings.used.read_u16(2);
        self.signalled_used = None;
        self.has_event_index = has_event_index;
        self.rings = Some(rings);
        true
    }

    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    pub fn stop(&mut self) {
        self.rings = None;
    }

    /// Takes the next request; None when there is none.
    pub fn pop(&mut self, memory: &Memory) -> Result<Option<Chain>, Broken> {
        let Some(rings) = self.rings.as_ref().filter(|_| self.is_enabled) else { return Ok(None) };
        let available = rings.available.read_u16(2);
        if available == self.next_available {
            return Ok(None);
        }
        if available.wrapping_sub(self.next_available) > self.size {
            return self.broke();
        }
        fence(Ordering::Acquire);
        let slot = usize::from(self.next_available % self.size);
        let head = rings.available.read_u16(4 + slot * 2);
        let Some(chain) = walk(memory, rings.descriptors, self.size, head) else { return self.broke() };
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    fn broke<T>(&mut self) -> Result<T, Broken> {
        self.stop();
        Err(Broken)
    }

    /// Puts the last `count` requests back that were taken.
    pub fn unpop(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    /// Answers a request with `bytes` written into it.
    pub fn push(&mut self, head: u16, bytes: u32) {
        let Some(rings) = self.rings.as_ref() else { return };
        let slot = usize::from(self.next_used % self.size);
        rings.used.write_u32(4 + slot * 8, u32::from(head));
        rings.used.write_u32(8 + slot * 8, bytes);
        self.next_used = self.next_used.wrapping_add(1);
        fence(Ordering::Release);
        rings.used.write_u16(2, self.next_used);
    }

    /// Asks for a kick at the next request. @returns whether one came meanwhile, which gives no kick
    pub fn wants_kick(&mut self) -> bool {
        let Some(rings) = self.rings.as_ref() else { return false };
        if self.has_event_index {
            rings.used.write_u16(4 + usize::from(self.size) * 8, self.next_available);
        }
        fence(Ordering::SeqCst);
        rings.available.read_u16(2) != self.next_available
    }

    /// Interrupts the guest if it wants to hear of what was pushed.
    pub fn signal(&mut self) {
        let (Some(rings), Some(call)) = (self.rings.as_ref(), self.call.as_ref()) else { return };
        fence(Ordering::SeqCst);
        let wanted = if self.has_event_index {
            let event = rings.available.read_u16(4 + usize::from(self.size) * 2);
            let since = self.signalled_used.unwrap_or(self.next_used.wrapping_sub(self.size));
            self.next_used.wrapping_sub(event).wrapping_sub(1) < self.next_used.wrapping_sub(since)
        } else {
            rings.available.read_u16(0) & 1 == 0
        };
        if wanted {
            signal_event(call);
        }
        self.signalled_used = Some(self.next_used);
    }
}

pub fn signal_event(fd: &OwnedFd) {
    let one = 1u64;
    // A full counter is signalled already.
    unsafe { libc::write(fd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
}

/// Follows a chain; None when it is not one.
fn walk(memory: &Memory, table: Piece, size: u16, head: u16) -> Option<Chain> {
    let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
    let (mut table, mut size, mut index, mut is_indirect) = (table, usize::from(size), usize::from(head), false);
    for _ in 0..MAX_CHAIN {
        if index >= size {
            return None;
        }
        let mut raw = [0u8; 16];
        table.copy_out(index * 16, &mut raw);
        let addr = u64::from_le_bytes(raw[..8].try_into().ok()?);
        let bytes = u32::from_le_bytes(raw[8..12].try_into().ok()?);
        let flags = u16::from_le_bytes(raw[12..14].try_into().ok()?);
        let next = u16::from_le_bytes(raw[14..16].try_into().ok()?);
        if flags & INDIRECT != 0 {
            if is_indirect || bytes == 0 || bytes % 16 != 0 {
                return None;
            }
            table = memory.at_guest(addr, u64::from(bytes))?;
            (size, index, is_indirect) = (bytes as usize / 16, 0, true);
            continue;
        }
        let piece = memory.at_guest(addr, u64::from(bytes))?;
        if flags & WRITE != 0 {
            chain.writable.push(piece);
        } else if chain.writable.is_empty() {
            chain.readable.push(piece);
        } else {
            return None;
        }
        if flags & NEXT == 0 {
            return Some(chain);
        }
        index = usize::from(next);
    }
    None
}
