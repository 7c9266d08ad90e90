//! What a guest may ask: every message is checked here before the pass-through file system sees it. The layouts are those
//! of linux/fuse.h, version 7.33.
pub const HEADER: usize = 40;
pub const MAX_DATA: usize = 1 << 20;
/// The largest message either way: 1 MiB of data, and a page for what comes before it.
pub const MAX_MESSAGE: usize = MAX_DATA + 4096;
/// FUSE_NAME_MAX: what is too long for the host's file system, that will say.
const MAX_NAME: usize = 1024;
const MAX_XATTR_NAME: usize = 255;
const MAX_TARGET: usize = 4095;
/// XATTR_SIZE_MAX and XATTR_LIST_MAX
const MAX_XATTR: u32 = 64 << 10;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const READLINK: u32 = 5;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const FSYNCDIR: u32 = 30;
const CREATE: u32 = 35;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const FALLOCATE: u32 = 43;
const RENAME2: u32 = 45;
const LSEEK: u32 = 46;

// FUSE_INIT: asynchronous reads, O_TRUNC by open, big writes, pages dropped when size or mtime changed, reads of one
// directory in parallel, more than 32 pages a request, set-id bits cleared by the host's kernel at a write (the guest's would
// ask for an xattr before each). Not among them, on purpose: the write-back cache (the host would not
// see writes), remote locks (the guest's kernel keeps them), directories with attributes (valid for no time, they are of no
// use, and the kernel would remember each entry, which is an open file here).
const INIT_FLAGS: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 18 | 1 << 22 | 1 << 28;
const MAJOR: u32 = 7;
const MINOR: u32 = 33;

// An asynchronous descriptor would signal us; direct I/O wants buffers that are aligned.
const STRIPPED_FLAGS: u32 = (libc::O_ASYNC | libc::O_DIRECT | libc::O_NOFOLLOW | libc::O_PATH) as u32;

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// For the pass-through file system.
    Pass,
    /// Answered with this error number, positive.
    Refuse(i32),
    /// Answered by `init_reply`.
    Init,
    /// Has no answer and needs none.
    Ignore,
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The length that a message's first four bytes announce; None when no message has it.
pub fn length(header: &[u8; HEADER]) -> Option<usize> {
    u32_at(header, 0).map(|n| n as usize).filter(|n| (HEADER..=MAX_MESSAGE).contains(n))
}

pub fn unique(message: &[u8]) -> u64 {
    u64_at(message, 8).unwrap_or(0)
}

/// Bytes that a read asks for.
pub fn wanted(message: &[u8]) -> usize {
    match u32_at(message, 4) {
        Some(READ | READDIR) => u32_at(message, HEADER + 16).unwrap_or(0) as usize,
        _ => 0,
    }
}

/// One name, ended by the only NUL in it.
fn is_name(bytes: &[u8]) -> bool {
    let Some((0, name)) = bytes.split_last() else { return false };
    (1..=MAX_NAME).contains(&name.len()) && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

/// Two texts, each ended by NUL.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = bytes.iter().position(|b| *b == 0)? + 1;
    Some(bytes.split_at(first))
}

fn is_xattr_name(bytes: &[u8]) -> bool {
    let Some((0, name)) = bytes.split_last() else { return false };
    (1..=MAX_XATTR_NAME).contains(&name.len()) && !name.contains(&0)
}

fn strip_flags(message: &mut [u8], at: usize) {
    if let Some(flags) = u32_at(message, at) {
        message[at..at + 4].copy_from_slice(&(flags & !STRIPPED_FLAGS).to_ne_bytes());
    }
}

/// Judges a whole message, whose length is the one that its header says; takes flags out that are not for the host.
pub fn judge(message: &mut [u8]) -> Verdict {
    let Some(opcode) = u32_at(message, 4) else { return Verdict::Refuse(libc::EINVAL) };
    match opcode {
        OPEN | OPENDIR | CREATE => strip_flags(message, HEADER),
        READ | WRITE => strip_flags(message, HEADER + 32),
        _ => {}
    }
    let body = message.get(HEADER..).unwrap_or(&[]);
    let at_least = |size: usize| body.len() >= size;
    let named = |fixed: usize| body.get(fixed..).is_some_and(is_name);
    let sized = |at: usize, most: u32| u32_at(body, at).is_some_and(|size| size <= most);
    let good = match opcode {
        INIT => return if at_least(16) { Verdict::Init } else { Verdict::Refuse(libc::EINVAL) },
        INTERRUPT => return Verdict::Ignore,
        FORGET => return if at_least(8) { Verdict::Pass } else { Verdict::Ignore },
        BATCH_FORGET => {
            let fits = u32_at(body, 0).is_some_and(|count| count as usize <= body.len().saturating_sub(8) / 16);
            return if fits { Verdict::Pass } else { Verdict::Ignore };
        }
        READLINK | STATFS => true,
        LOOKUP | UNLINK | RMDIR => named(0),
        GETATTR | FSYNC | FSYNCDIR => at_least(16),
        SETATTR => at_least(88),
        SYMLINK => split(body).is_some_and(|(name, target)| {
            is_name(name) && target.last() == Some(&0) && (2..=MAX_TARGET + 1).contains(&target.len())
        }),
        MKNOD => named(16),
        MKDIR | LINK => named(8),
        CREATE => named(16),
        RENAME => body.get(8..).and_then(split).is_some_and(|(from, to)| is_name(from) && is_name(to)),
        RENAME2 => body.get(16..).and_then(split).is_some_and(|(from, to)| is_name(from) && is_name(to)),
        OPEN | OPENDIR => at_least(8),
        RELEASE | RELEASEDIR | FLUSH | LSEEK => at_least(24),
        FALLOCATE => at_least(32),
        READ | READDIR => at_least(40) && sized(16, MAX_DATA as u32),
        WRITE => at_least(40) && u32_at(body, 16).is_some_and(|size| size as usize == body.len() - 40),
        GETXATTR => sized(0, MAX_XATTR) && body.get(8..).is_some_and(is_xattr_name),
        LISTXATTR => at_least(8) && sized(0, MAX_XATTR),
        REMOVEXATTR => is_xattr_name(body),
        SETXATTR => {
            let value = body.get(8..).and_then(split);
            let size = u32_at(body, 0).filter(|size| *size <= MAX_XATTR);
            value.is_some_and(|(name, value)| is_xattr_name(name) && size.is_some_and(|n| n as usize == value.len()))
        }
        _ => return Verdict::Refuse(libc::ENOSYS),
    };
    if good {
        Verdict::Pass
    } else {
        Verdict::Refuse(libc::EINVAL)
    }
}

pub fn error_reply(unique: u64, errno: i32) -> [u8; 16] {
    let mut reply = [0; 16];
    reply[..4].copy_from_slice(&16u32.to_ne_bytes());
    reply[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    reply[8..].copy_from_slice(&unique.to_ne_bytes());
    reply
}

/// The answer to FUSE_INIT: fuse_out_header, then fuse_init_out.
pub fn init_reply(message: &[u8]) -> Vec<u8> {
    let body = &message[HEADER..];
    let word = |at: usize| u32_at(body, at).unwrap_or(0);
    if word(0) < MAJOR || (word(0) == MAJOR && word(4) < 23) {
        return error_reply(unique(message), libc::EPROTO).to_vec();
    }
    let mut reply = Vec::with_capacity(80);
    reply.extend_from_slice(&80u32.to_ne_bytes());
    reply.extend_from_slice(&0i32.to_ne_bytes());
    reply.extend_from_slice(&unique(message).to_ne_bytes());
    for value in [MAJOR, MINOR, word(8), word(12) & INIT_FLAGS] {
        reply.extend_from_slice(&value.to_ne_bytes());
    }
    // max_background and congestion_threshold, then max_write, time_gran (ns), max_pages and map_alignment.
    reply.extend_from_slice(&[64u16.to_ne_bytes(), 48u16.to_ne_bytes()].concat());
    reply.extend_from_slice(&(MAX_DATA as u32).to_ne_bytes());
    reply.extend_from_slice(&1u32.to_ne_bytes());
    reply.extend_from_slice(&[256u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
    reply.resize(80, 0);
    reply
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend_from_slice(&opcode.to_ne_bytes());
        bytes.extend_from_slice(&7u64.to_ne_bytes());
        bytes.extend_from_slice(&node.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(body);
        bytes
    }

    fn verdict(opcode: u32, body: &[u8]) -> Verdict {
        judge(&mut message(opcode, 1, body))
    }

    #[test]
    fn names_are_one_component() {
        assert_eq!(verdict(LOOKUP, b"file\0"), Verdict::Pass);
        assert_eq!(verdict(LOOKUP, b"..data\0"), Verdict::Pass);
        assert_eq!(verdict(LOOKUP, b"\xff\xfe\n\0"), Verdict::Pass);
        let long = [vec![b'x'; 1025], vec![0]].concat();
        for bad in [&b""[..], b"\0", b".\0", b"..\0", b"a/b\0", b"/\0", b"a", b"a\0b\0", b"a\0\0", &long] {
            assert_eq!(verdict(LOOKUP, bad), Verdict::Refuse(libc::EINVAL), "{bad:?}");
        }
        let renamed = |a: &[u8], b: &[u8]| verdict(RENAME2, &[&[0; 16], a, b].concat());
        assert_eq!(renamed(b"a\0", b"b\0"), Verdict::Pass);
        assert_eq!(renamed(b"a\0", b"../b\0"), Verdict::Refuse(libc::EINVAL));
        assert_eq!(renamed(b"..\0", b"b\0"), Verdict::Refuse(libc::EINVAL));
        assert_eq!(verdict(SYMLINK, b"l\0/anywhere/at/all\0"), Verdict::Pass);
        assert_eq!(verdict(SYMLINK, b"a/l\0t\0"), Verdict::Refuse(libc::EINVAL));
    }

    #[test]
    fn sizes_are_bounded() {
        let read = |size: u32| [&[0; 16][..], &size.to_ne_bytes(), &[0; 20]].concat();
        assert_eq!(verdict(READ, &read(1 << 20)), Verdict::Pass);
        assert_eq!(verdict(READ, &read((1 << 20) + 1)), Verdict::Refuse(libc::EINVAL));
        assert_eq!(verdict(READDIR, &read(u32::MAX)), Verdict::Refuse(libc::EINVAL));
        let write = |size: u32, data: usize| [read(size), vec![0; data]].concat();
        assert_eq!(verdict(WRITE, &write(5, 5)), Verdict::Pass);
        assert_eq!(verdict(WRITE, &write(6, 5)), Verdict::Refuse(libc::EINVAL));
        assert_eq!(
            verdict(GETXATTR, &[&u32::MAX.to_ne_bytes()[..], &[0; 4], b"user.a\0"].concat()),
            Verdict::Refuse(22)
        );
        assert_eq!(verdict(BATCH_FORGET, &[&1000u32.to_ne_bytes()[..], &[0; 20]].concat()), Verdict::Ignore);
        let mut header = [0; HEADER];
        for (announced, wanted) in [(0u32, None), (39, None), (40, Some(40)), (u32::MAX, None)] {
            header[..4].copy_from_slice(&announced.to_ne_bytes());
            assert_eq!(length(&header), wanted);
        }
    }

    #[test]
    fn only_known_requests() {
        // ioctl, poll, locks, bmap, directories with attributes, mappings of shared memory, and what no version of FUSE has
        for opcode in [31, 32, 33, 34, 37, 38, 39, 40, 41, 44, 47, 48, 49, 50, 51, 52, 4096, 0, u32::MAX] {
            assert_eq!(verdict(opcode, &[0; 256]), Verdict::Refuse(libc::ENOSYS), "{opcode}");
        }
    }

    #[test]
    fn flags_that_are_not_for_the_host() {
        let mut open = message(OPEN, 1, &[0; 8]);
        open[HEADER..HEADER + 4]
            .copy_from_slice(&((libc::O_RDWR | libc::O_ASYNC | libc::O_DIRECT) as u32).to_ne_bytes());
        assert_eq!(judge(&mut open), Verdict::Pass);
        assert_eq!(u32_at(&open, HEADER), Some(libc::O_RDWR as u32));
    }

    #[test]
    fn init_grants_what_is_offered() {
        let offered =
            |flags: u32| [7u32, 36, 4096, flags].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        let reply = init_reply(&message(INIT, 0, &offered(u32::MAX)));
        assert_eq!((reply.len(), u32_at(&reply, 0)), (80, Some(80)));
        assert_eq!(u32_at(&reply, 28), Some(INIT_FLAGS));
        assert_eq!(u32_at(&reply, 36), Some(1 << 20));
        assert_eq!(u32_at(&init_reply(&message(INIT, 0, &offered(1))), 28), Some(1));
    }
}
