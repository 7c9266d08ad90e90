//! The guest's memory as a vhost-user front end describes it: regions of shared files, mapped here. The guest writes it
//! while we read, so nothing outside this file makes a reference into it: bytes are copied by pointer.
use crate::sys::check;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

pub struct RegionLayout {
    pub guest_addr: u64,
    pub size: u64,
    /// Where QEMU has it; ring addresses come in these
    pub user_addr: u64,
    pub file_offset: u64,
}

struct Region {
    layout: RegionLayout,
    mapping: *mut u8,
    mapped_bytes: usize,
}

impl Drop for Region {
    fn drop(&mut self) {
        unsafe { libc::munmap(self.mapping.cast(), self.mapped_bytes) };
    }
}

/// A piece of guest memory that is mapped here for as long as its `Memory` lives.
#[derive(Clone, Copy)]
pub struct Piece {
    pub start: *mut u8,
    pub bytes: usize,
}

#[derive(Default)]
pub struct Memory {
    regions: Vec<Region>,
}

// Only the thread that owns it uses the mappings.
unsafe impl Send for Memory {}

fn within(start: u64, size: u64, addr: u64, bytes: u64) -> Option<u64> {
    let offset = addr.checked_sub(start)?;
    (offset.checked_add(bytes)? <= size).then_some(offset)
}

impl Memory {
    pub fn add(&mut self, layout: RegionLayout, fd: &OwnedFd) -> io::Result<()> {
        let bytes = layout
            .size
            .checked_add(layout.file_offset)
            .and_then(|sum| usize::try_from(sum).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        // A file shorter than its mapping would end us by SIGBUS.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        check(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) })?;
        if (stat.st_size as u64) < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a memory region is larger than its file"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let mapping =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.regions.push(Region { layout, mapping: mapping.cast(), mapped_bytes: bytes });
        Ok(())
    }

    fn piece(&self, bytes: u64, offset_in: impl Fn(&RegionLayout) -> Option<u64>) -> Option<Piece> {
        self.regions.iter().find_map(|region| {
            let offset = offset_in(&region.layout)? + region.layout.file_offset;
            Some(Piece { start: unsafe { region.mapping.add(offset as usize) }, bytes: bytes as usize })
        })
    }

    /// By guest-physical address; a piece that crosses the end of a region is none.
    pub fn at_guest(&self, addr: u64, bytes: u64) -> Option<Piece> {
        self.piece(bytes, |layout| within(layout.guest_addr, layout.size, addr, bytes))
    }

    /// By QEMU's own address.
    pub fn at_user(&self, addr: u64, bytes: u64) -> Option<Piece> {
        self.piece(bytes, |layout| within(layout.user_addr, layout.size, addr, bytes))
    }

    /// QEMU's address of a guest-physical one.
    pub fn user_of_guest(&self, addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            within(region.layout.guest_addr, region.layout.size, addr, 0).map(|at| region.layout.user_addr + at)
        })
    }
}

impl Piece {
    pub fn read_u16(&self, at: usize) -> u16 {
        assert!(at + 2 <= self.bytes);
        u16::from_le(unsafe { self.start.add(at).cast::<u16>().read_volatile() })
    }

    pub fn write_u16(&self, at: usize, value: u16) {
        assert!(at + 2 <= self.bytes);
        unsafe { self.start.add(at).cast::<u16>().write_volatile(value.to_le()) }
    }

    pub fn write_u32(&self, at: usize, value: u32) {
        assert!(at + 4 <= self.bytes);
        unsafe { self.start.add(at).cast::<u32>().write_volatile(value.to_le()) }
    }

    pub fn copy_out(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.bytes);
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(at), to.as_mut_ptr(), to.len()) }
    }

    pub fn copy_in(&self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= self.bytes);
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.add(at), from.len()) }
    }
}

/// Copies the first bytes of `pieces` out, skipping `skip`; how many there were.
pub fn gather(pieces: &[Piece], mut skip: usize, to: &mut [u8]) -> usize {
    let mut done = 0;
    for piece in pieces {
        if skip >= piece.bytes {
            skip -= piece.bytes;
            continue;
        }
        let count = (piece.bytes - skip).min(to.len() - done);
        piece.copy_out(skip, &mut to[done..done + count]);
        done += count;
        skip = 0;
        if done == to.len() {
            break;
        }
    }
    done
}

/// Copies `from` into `pieces`, skipping `skip` of theirs; how many bytes found room.
pub fn scatter(pieces: &[Piece], mut skip: usize, from: &[u8]) -> usize {
    let mut done = 0;
    for piece in pieces {
        if skip >= piece.bytes {
            skip -= piece.bytes;
            continue;
        }
        let count = (piece.bytes - skip).min(from.len() - done);
        piece.copy_in(skip, &from[done..done + count]);
        done += count;
        skip = 0;
        if done == from.len() {
            break;
        }
    }
    done
}

/// `pieces` without their first `skip` bytes and with at most `limit`, as readv and writev take them.
pub fn io_vectors(pieces: &[Piece], mut skip: usize, mut limit: usize) -> Vec<libc::iovec> {
    let mut vectors = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if skip >= piece.bytes {
            skip -= piece.bytes;
            continue;
        }
        let count = (piece.bytes - skip).min(limit);
        if count > 0 {
            vectors.push(libc::iovec { iov_base: unsafe { piece.start.add(skip) }.cast(), iov_len: count });
        }
        limit -= count;
        skip = 0;
    }
    vectors
}
