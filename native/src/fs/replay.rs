//! Replays what a guest's kernel sends, then the same with bytes changed, cut and spliced, to a real server thread on a
//! temporary directory: it must answer or hang up, never hang, never end, and never touch what is outside.
use super::exercise::{reply, send, serve, serve_with, Place};
use super::gate::tests::message;
use super::gate::HEADER;
use super::ids::Ids;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

const ROOT: u64 = 1;

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap()))
}

fn call(guest: &mut UnixStream, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
    guest.write_all(&message(opcode, node, body)).unwrap();
    reply(guest).expect("the server hung up")
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// One of each request, as a kernel would send them, with the ids that this server gave.
fn conversation(guest: &mut UnixStream) -> Vec<Vec<u8>> {
    call(guest, 26, 0, &words(&[7, 36, 1 << 20, u32::MAX]));
    let (error, entry) = call(guest, 1, ROOT, b"file\0");
    assert_eq!(error, 0);
    let file = number(&entry, 0);
    let (error, opened) = call(guest, 14, file, &words(&[libc::O_RDWR as u32, 0]));
    assert_eq!(error, 0);
    let handle = number(&opened, 0);
    let (_, opened) = call(guest, 27, ROOT, &words(&[0, 0]));
    let directory = number(&opened, 0);
    let of = |handle: u64, rest: &[u32]| [&handle.to_ne_bytes()[..], &words(rest)].concat();
    let named = |fixed: &[u32], name: &[u8]| [&words(fixed)[..], name].concat();
    vec![
        message(26, 0, &words(&[7, 36, 1 << 20, u32::MAX])),
        message(1, ROOT, b"link\0"),
        message(3, file, &[0; 16]),
        message(4, file, &[&words(&[1 << 3, 0, 0, 0, 3, 0]), &[0; 64][..]].concat()),
        message(5, file, b""),
        message(6, ROOT, b"new-link\0../outside\0"),
        message(8, ROOT, &named(&[libc::S_IFREG | 0o644, 0, 0, 0], b"node\0")),
        message(9, ROOT, &named(&[0o755, 0], b"made\0")),
        message(10, ROOT, b"node\0"),
        message(11, ROOT, b"made\0"),
        message(12, ROOT, &[&ROOT.to_ne_bytes()[..], b"new-link\0moved\0"].concat()),
        message(13, ROOT, &[&file.to_ne_bytes()[..], b"hard\0"].concat()),
        message(15, file, &of(handle, &[0, 0, 4096, 0, 0, 0, 0, 0])),
        message(16, file, &[&of(handle, &[0, 0, 3, 0, 0, 0, 0, 0])[..], b"abc"].concat()),
        message(17, ROOT, b""),
        message(20, file, &of(handle, &[0, 0])),
        message(21, file, &[&words(&[1, 0])[..], b"user.a\0v"].concat()),
        message(22, file, &named(&[64, 0], b"user.a\0")),
        message(23, file, &words(&[4096, 0])),
        message(24, file, b"user.a\0"),
        message(25, file, &of(handle, &[0, 0, 0, 0])),
        message(28, ROOT, &of(directory, &[0, 0, 4096, 0, 0, 0, 0, 0])),
        message(30, ROOT, &of(directory, &[0, 0])),
        message(35, ROOT, &named(&[libc::O_RDWR as u32, 0o644, 0, 0], b"created\0")),
        message(43, file, &of(handle, &[0, 0, 100, 0, 0, 0])),
        message(45, ROOT, &[&ROOT.to_ne_bytes()[..], &words(&[1, 0]), b"hard\0hard2\0"].concat()),
        message(46, file, &of(handle, &[0, 0, libc::SEEK_END as u32, 0])),
        message(2, file, &1u64.to_ne_bytes()),
        message(42, ROOT, &[&words(&[1, 0])[..], &file.to_ne_bytes(), &1u64.to_ne_bytes()].concat()),
        message(18, file, &of(handle, &[0, 0, 0, 0])),
    ]
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit.max(1)
    }
}

fn mutate(random: &mut Random, message: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(message.len());
        match random.below(7) {
            0 => message[at] = random.below(256) as u8,
            1 => message[at] ^= 1 << random.below(8),
            2 => message.truncate(at.max(HEADER)),
            3 => message.extend_from_slice(&vec![random.below(256) as u8; random.below(300)]),
            4 => {
                let other = &others[random.below(others.len())];
                message.truncate(at.max(HEADER));
                message.extend_from_slice(&other[HEADER + random.below(other.len() - HEADER)..]);
            }
            5 => {
                let value = [0, 1, u32::MAX, 1 << 31, 1 << 20, 4096][random.below(6)];
                if let Some(place) = message.get_mut(at..at + 4) {
                    place.copy_from_slice(&value.to_ne_bytes());
                }
            }
            _ => {
                let name: &[u8] = [&b"../outside\0"[..], b"..\0", b"/etc/passwd\0", b"dir/../..\0"][random.below(4)];
                message.extend_from_slice(name);
            }
        }
    }
    // The length is right more often than not, or nothing after the header would be looked at.
    if random.below(8) > 0 {
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
    }
}

#[test]
fn what_a_kernel_sends_is_served() {
    let place = Place::new("kernel");
    let mut guest = serve(&place);
    let messages = conversation(&mut guest);
    for request in &messages {
        let opcode = request[4];
        guest.write_all(request).unwrap();
        if opcode == 2 || opcode == 42 {
            continue;
        }
        let (error, body) = reply(&mut guest).expect("the server hung up");
        // Not a symlink: readlink. No xattrs here: the file system below may have none.
        if ![5, 21, 22, 23, 24].contains(&opcode) {
            assert_eq!(error, 0, "request {opcode}");
        }
        if opcode == 15 {
            assert_eq!(body, b"con");
        }
    }
    assert_eq!(fs::read_link(place.volume().join("volume/moved")).unwrap(), Path::new("../outside"));
    assert_eq!(fs::read(place.volume().join("volume/hard2")).unwrap()[..3], *b"abc");
}

#[test]
fn no_request_leads_out_of_the_volume() {
    let place = Place::new("outside");
    let mut guest = serve(&place);
    let (_, entry) = call(&mut guest, 1, ROOT, b"dir\0");
    let directory = number(&entry, 0);
    for name in [&b"..\0"[..], b".\0", b"../outside\0", b"/\0", b"dir/../../outside\0"] {
        for node in [ROOT, directory] {
            // lookup, mkdir, unlink, and a link's name
            assert_eq!(call(&mut guest, 1, node, name).0, libc::EINVAL, "{name:?}");
            assert_eq!(call(&mut guest, 9, node, &[&[0; 8][..], name].concat()).0, libc::EINVAL, "{name:?}");
            assert_eq!(call(&mut guest, 10, node, name).0, libc::EINVAL, "{name:?}");
            assert_eq!(call(&mut guest, 6, node, &[name, &b"target\0"[..]].concat()).0, libc::EINVAL, "{name:?}");
        }
    }
    // A symlink is itself: it cannot be opened, so it is not followed here.
    let (_, entry) = call(&mut guest, 1, ROOT, b"link\0");
    assert_eq!(call(&mut guest, 14, number(&entry, 0), &[0; 8]).0, libc::EBADF);
    // An inode that was never looked up.
    assert_eq!(call(&mut guest, 3, 123_456, &[0; 16]).0, libc::EBADF);
}

#[test]
fn what_nobody_should_send_is_answered_or_ends_the_connection() {
    let seed = std::env::var("FS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_101);
    let rounds = std::env::var("FS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    eprintln!("FS_SEED={seed} FS_ROUNDS={rounds}");
    let mut random = Random(seed);
    let place = Place::new("mutated");
    for _ in 0..rounds {
        let mut guest = serve(&place);
        let _ = fs::write(place.volume().join("volume/file"), "content");
        let messages = conversation(&mut guest);
        let mut sent = Vec::new();
        for _ in 0..40 {
            let mut request = messages[random.below(messages.len())].clone();
            mutate(&mut random, &mut request, &messages);
            sent.extend_from_slice(&request);
        }
        send(&place, guest, &sent);
    }
}

#[test]
fn the_corpus_is_answered_or_ends_the_connection() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/volumes");
    for entry in fs::read_dir(directory).unwrap() {
        let place = Place::new("corpus");
        send(&place, serve(&place), &fs::read(entry.unwrap().path()).unwrap());
    }
}

/// Of an entry's or an attribute reply's body: who owns it. `at` is where the attributes begin.
fn owner(body: &[u8], at: usize) -> (u32, u32) {
    let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
    (word(at + 68), word(at + 72))
}

#[test]
fn owners_are_shifted_both_ways_and_others_refused() {
    use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let place = Place::new("owners");
    let file = place.volume().join("volume/file");
    // The server keeps its capabilities when it becomes another, this thread does not.
    fs::set_permissions(place.volume().join("volume"), fs::Permissions::from_mode(0o777)).unwrap();
    let map = vec![(1_000, 0, 100)];
    let mut guest = serve_with(&place, Ids::new(map.clone(), map));
    chown(&file, Some(1_007), Some(5)).unwrap();
    let (_, entry) = call(&mut guest, 1, ROOT, b"file\0");
    assert_eq!(owner(&entry, 40), (7, u32::MAX));
    let node = number(&entry, 0);
    assert_eq!(owner(&call(&mut guest, 3, node, &[0; 16]).1, 16), (7, u32::MAX));
    // FATTR_UID and FATTR_GID
    let to = |uid: u32, gid: u32| [&words(&[6, 0])[..], &[0; 68], &words(&[uid, gid, 0])].concat();
    let (error, about) = call(&mut guest, 4, node, &to(8, 9));
    assert_eq!((error, owner(&about, 16)), (0, (8, 9)));
    assert_eq!(call(&mut guest, 4, node, &to(100, 9)).0, libc::EOVERFLOW);
    assert_eq!(call(&mut guest, 4, node, &to(8, u32::MAX)).0, libc::EOVERFLOW);
    let about = fs::metadata(&file).unwrap();
    assert_eq!((about.uid(), about.gid()), (1_008, 1_009));
    // What is made belongs to who asks: mkdir, as another than root
    let mut request = message(9, ROOT, &[&words(&[0o755, 0])[..], b"made\0"].concat());
    request[24..32].copy_from_slice(&words(&[3, 4]));
    guest.write_all(&request).unwrap();
    assert_eq!(owner(&reply(&mut guest).unwrap().1, 40), (3, 4));
    let about = fs::metadata(place.volume().join("volume/made")).unwrap();
    assert_eq!((about.uid(), about.gid()), (1_003, 1_004));
    for (uid, gid) in [(100, 0), (0, 100), (u32::MAX, u32::MAX)] {
        let mut request = message(9, ROOT, &[&words(&[0o755, 0])[..], b"never\0"].concat());
        request[24..32].copy_from_slice(&words(&[uid, gid]));
        guest.write_all(&request).unwrap();
        assert_eq!(reply(&mut guest).unwrap().0, libc::EOVERFLOW);
    }
    assert!(!place.volume().join("volume/never").exists());
    let acl = [&words(&[64, 0])[..], b"system.posix_acl_access\0"].concat();
    assert_eq!(call(&mut guest, 22, node, &acl).0, libc::EOPNOTSUPP);
}
