//! Whose files are in a volume, as its guest is to see it: ranges of ids on the disk, and what they are in the guest. It is
//! what an id-mapped mount does, for any file system. Where there are no ranges, ids are what they are.
use super::MAPS;
use crate::userns::{self, Map};
use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::Context;
use std::io;

/// What the guest gets for an id in no range: its kernel takes it for nobody's, and lets nobody write there.
const NOBODY: u32 = u32::MAX;

/// struct vfs_cap_data of linux/capability.h has 20 bytes, the low byte of the first word's upper half is the revision;
/// struct vfs_ns_cap_data has the id of its namespace's root behind them.
const CAPS: usize = 20;
const CAPS_OF_NAMESPACE: usize = 24;
const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

#[derive(Default)]
pub struct Ids {
    uids: Map,
    gids: Map,
}

fn failed(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// (from, to, length): where `id` is, when `map` is read from left to right.
fn find(id: u32, map: impl Iterator<Item = (u32, u32, u32)>) -> Option<u32> {
    for (from, to, length) in map {
        if let Some(offset) = id.checked_sub(from).filter(|offset| *offset < length) {
            return to.checked_add(offset);
        }
    }
    None
}

fn to_guest(map: &Map, id: u32) -> u32 {
    if map.is_empty() {
        return id;
    }
    find(id, map.iter().copied()).unwrap_or(NOBODY)
}

fn to_disk(map: &Map, id: u32) -> io::Result<u32> {
    if map.is_empty() {
        return Ok(id);
    }
    find(id, map.iter().map(|&(disk, guest, length)| (guest, disk, length))).ok_or(failed(libc::EOVERFLOW))
}

impl Ids {
    pub fn new(uids: Map, gids: Map) -> Ids {
        Ids { uids, gids }
    }

    /// As `fs-add` has left them for the volume; none when it has not.
    pub fn read(id: &str) -> io::Result<Ids> {
        match std::fs::read_to_string(format!("{MAPS}/{id}")) {
            Ok(text) => Ids::parse(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ids::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Result<Ids, String> {
        let mut ids = Ids::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("uid", mapping)) => ids.uids.push(userns::parse_mapping(mapping)?),
                Some(("gid", mapping)) => ids.gids.push(userns::parse_mapping(mapping)?),
                _ => return Err(format!("'{line}' must be uid or gid DISK:GUEST:LENGTH")),
            }
        }
        Ok(ids)
    }

    pub fn text(&self) -> String {
        let lines = |kind: &'static str, map: &Map| -> String {
            map.iter().map(|(disk, guest, length)| format!("{kind} {disk}:{guest}:{length}\n")).collect()
        };
        lines("uid", &self.uids) + &lines("gid", &self.gids)
    }

    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Who makes something, for the disk. EOVERFLOW for one who has no id there, as on an id-mapped mount.
    pub fn maker(&self, context: &Context) -> io::Result<Context> {
        let (uid, gid) = (to_disk(&self.uids, context.uid)?, to_disk(&self.gids, context.gid)?);
        Ok(Context { uid, gid, ..*context })
    }

    pub fn new_owner(&self, uid: u32) -> io::Result<u32> {
        to_disk(&self.uids, uid)
    }

    pub fn new_group(&self, gid: u32) -> io::Result<u32> {
        to_disk(&self.gids, gid)
    }

    pub fn shown(&self, mut about: stat64) -> stat64 {
        about.st_uid = to_guest(&self.uids, about.st_uid);
        about.st_gid = to_guest(&self.gids, about.st_gid);
        about
    }

    /// A value of security.capability from the disk. ENODATA where the root that it counts for is nobody in the guest.
    pub fn caps_to_guest(&self, value: Vec<u8>) -> io::Result<Vec<u8>> {
        match to_guest(&self.uids, root_of(&value).ok_or(failed(libc::ENODATA))?) {
            NOBODY => Err(failed(libc::ENODATA)),
            root => Ok(with_root(&value, root)),
        }
    }

    /// A value of security.capability for the disk: never the host's root for who is not.
    pub fn caps_to_disk(&self, value: &[u8]) -> io::Result<Vec<u8>> {
        let root = root_of(value).ok_or(failed(libc::EINVAL))?;
        Ok(with_root(value, to_disk(&self.uids, root)?))
    }
}

fn word(value: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?))
}

/// The root user of the namespaces in which the capabilities count.
fn root_of(value: &[u8]) -> Option<u32> {
    match (word(value, 0)? & REVISION, value.len()) {
        (REVISION_2, CAPS) => Some(0),
        (REVISION_3, CAPS_OF_NAMESPACE) => word(value, CAPS),
        _ => None,
    }
}

fn with_root(value: &[u8], root: u32) -> Vec<u8> {
    let magic = word(value, 0).unwrap_or(0) & !REVISION;
    let mut bytes = value[..CAPS].to_vec();
    bytes[..4].copy_from_slice(&(magic | if root == 0 { REVISION_2 } else { REVISION_3 }).to_le_bytes());
    if root != 0 {
        bytes.extend_from_slice(&root.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host's ids in a guest whose pod has 0 to 99,999 at 1,000 of the host: all of them, elsewhere.
    fn turned() -> Ids {
        let map = vec![(0, 100_000, 1_000), (1_000, 0, 100_000), (101_000, 101_000, u32::MAX - 101_000)];
        Ids::new(map.clone(), map)
    }

    #[test]
    fn every_id_there_and_back() {
        let ids = turned();
        for id in [0, 1, 999, 1_000, 1_001, 100_999, 101_000, u32::MAX - 1] {
            assert_eq!(to_disk(&ids.uids, to_guest(&ids.uids, id)).unwrap(), id);
        }
        assert_eq!((to_guest(&ids.uids, 1_000), to_guest(&ids.uids, 0)), (0, 100_000));
        assert_eq!(to_disk(&ids.uids, u32::MAX).unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
        assert_eq!(to_guest(&Map::new(), u32::MAX), u32::MAX);
    }

    #[test]
    fn what_is_in_no_range_is_nobodys() {
        let ids = Ids::parse("uid 0:0:10\ngid 5:7:1\n").unwrap();
        assert_eq!(ids.text(), "uid 0:0:10\ngid 5:7:1\n");
        assert_eq!((to_guest(&ids.uids, 9), to_guest(&ids.uids, 10)), (9, NOBODY));
        assert_eq!(ids.new_group(7).unwrap(), 5);
        assert_eq!(ids.new_group(5).unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
        let maker = |uid, gid| ids.maker(&Context { uid, gid, pid: 1 }).map(|made| (made.uid, made.gid));
        assert_eq!(maker(3, 7).unwrap(), (3, 5));
        assert!(maker(10, 7).is_err() && maker(3, 0).is_err() && maker(u32::MAX, u32::MAX).is_err());
        for bad in ["uid 0:0\n", "0:0:1\n", "pid 0:0:1\n", "uid 0:0:0\n"] {
            assert!(Ids::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_count_for_the_same_root() {
        let plain = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        let ids = turned();
        // The guest's root is 1,000 on the disk: capabilities of the host's own would be more than it has.
        let kept = ids.caps_to_disk(&plain).unwrap();
        assert_eq!(kept, [&[1, 0, 0, 3][..], &[7; 16], &1_000u32.to_le_bytes()].concat());
        assert_eq!(ids.caps_to_guest(kept).unwrap(), plain);
        assert_eq!(root_of(&ids.caps_to_guest(plain.clone()).unwrap()), Some(100_000));
        let some = Ids::parse("uid 5:0:10\n").unwrap();
        assert_eq!(some.caps_to_guest(plain.clone()).unwrap_err().raw_os_error(), Some(libc::ENODATA));
        for bad in [&b""[..], &plain[..19], &[&plain[..], &[0; 4]].concat()] {
            assert!(ids.caps_to_disk(bad).is_err());
        }
    }
}
