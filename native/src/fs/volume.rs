//! One volume: the crate's pass-through file system, with its directories made whole and its owners as the guest is to see
//! them.
use super::ids::Ids;
use crate::sys;
use fuse_backend_rs::abi::fuse_abi::{stat64, CreateIn};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

type Opened = (Option<u64>, OpenOptions, Option<u32>);

/// Where a directory's reading goes on after "." and after "..": no file system has such offsets of its own.
const AFTER_DOT: u64 = 0x7fff_ffff_ffff_fff0;
const AFTER_DOT_DOT: u64 = 0x7fff_ffff_ffff_fff1;
/// Where FUSE does not know an inode number, as for a directory's parent.
const UNKNOWN_INODE: u64 = 0xffff_ffff;
/// Entries that may vanish in a row between being listed and being looked at.
const RETRIES: usize = 1000;

const CAPABILITIES: &[u8] = b"security.capability";
/// More than any form of them has
const MAX_CAPABILITIES: u32 = 64;
/// Access control lists name ids as well.
const LISTS: &[u8] = b"system.posix_acl_";

pub struct Volume {
    inner: PassthroughFs,
    ids: Ids,
}

impl Volume {
    /// The directory or file at `root`. The guest asks each time: a change on the host is seen by its next system call.
    pub fn open(root: &str, ids: Ids) -> io::Result<Volume> {
        let config = Config {
            root_dir: root.to_owned(),
            xattr: true,
            entry_timeout: Duration::ZERO,
            attr_timeout: Duration::ZERO,
            cache_policy: CachePolicy::Auto,
            // Without it every file that was ever seen stays in a table.
            use_host_ino: true,
            enable_mntid: true,
            allow_direct_io: false,
            killpriv_v2: true,
            ..Config::default()
        };
        let inner = PassthroughFs::new(config)?;
        // Imports the root, too. The guest's own FUSE_INIT is answered in gate.rs, with this among what it grants.
        inner.init(FsOptions::HANDLE_KILLPRIV_V2)?;
        Ok(Volume { inner, ids })
    }

    fn shown(&self, entry: Entry) -> Entry {
        Entry { attr: self.ids.shown(entry.attr), ..entry }
    }

    /// Where owners are shifted, what names them in a form of its own is not to be had.
    fn check_xattr(&self, name: &CStr) -> io::Result<()> {
        if !self.ids.is_empty() && name.to_bytes().starts_with(LISTS) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(())
    }

    /// "." and "..", which the crate leaves out, as far as `offset` has not passed them; where the rest goes on, or None
    /// when there is no room for more.
    fn dots(
        &self,
        context: &Context,
        inode: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<Option<u64>> {
        if offset != 0 && offset != AFTER_DOT && offset != AFTER_DOT_DOT {
            return Ok(Some(offset));
        }
        let type_ = u32::from(libc::DT_DIR);
        if offset == 0 {
            let ino = self.inner.getattr(context, inode, None)?.0.st_ino;
            if add(DirEntry { ino, offset: AFTER_DOT, type_, name: b"." })? == 0 {
                return Ok(None);
            }
        }
        if offset != AFTER_DOT_DOT
            && add(DirEntry { ino: UNKNOWN_INODE, offset: AFTER_DOT_DOT, type_, name: b".." })? == 0
        {
            return Ok(None);
        }
        Ok(Some(0))
    }
}

/// Reads again where the first entry has vanished between being listed and being looked at.
fn again(mut read: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..RETRIES {
        match read() {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EIO))
}

/// That two more files can be opened: what is made is looked up at once, and must not be made without that.
fn room() -> io::Result<()> {
    let spare = || sys::check(unsafe { libc::dup(0) }).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let _both = (spare()?, spare()?);
    Ok(())
}

macro_rules! pass {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, context: &Context, $($argument: $kind),*) -> io::Result<$result> {
            self.inner.$name(context, $($argument),*)
        })*
    };
}

macro_rules! make {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name(&self, context: &Context, $($argument: $kind),*) -> io::Result<Entry> {
            room()?;
            self.inner.$name(&self.ids.maker(context)?, $($argument),*).map(|entry| self.shown(entry))
        })*
    };
}

impl FileSystem for Volume {
    type Inode = u64;
    type Handle = u64;

    make! {
        symlink(target: &CStr, parent: u64, name: &CStr);
        mknod(parent: u64, name: &CStr, mode: u32, device: u32, umask: u32);
        mkdir(parent: u64, name: &CStr, mode: u32, umask: u32);
        link(inode: u64, parent: u64, name: &CStr);
    }

    pass! {
        readlink(inode: u64) -> Vec<u8>;
        unlink(parent: u64, name: &CStr) -> ();
        rmdir(parent: u64, name: &CStr) -> ();
        rename(from: u64, name: &CStr, to: u64, new_name: &CStr, flags: u32) -> ();
        open(inode: u64, flags: u32, fuse_flags: u32) -> Opened;
        flush(inode: u64, handle: u64, owner: u64) -> ();
        fsync(inode: u64, data_only: bool, handle: u64) -> ();
        fallocate(inode: u64, handle: u64, mode: u32, offset: u64, length: u64) -> ();
        release(inode: u64, flags: u32, handle: u64, flush: bool, unlock: bool, owner: Option<u64>) -> ();
        statfs(inode: u64) -> libc::statvfs64;
        listxattr(inode: u64, size: u32) -> ListxattrReply;
        removexattr(inode: u64, name: &CStr) -> ();
        opendir(inode: u64, flags: u32) -> (Option<u64>, OpenOptions);
        fsyncdir(inode: u64, data_only: bool, handle: u64) -> ();
        releasedir(inode: u64, flags: u32, handle: u64) -> ();
        lseek(inode: u64, handle: u64, offset: u64, whence: u32) -> u64;
        read(inode: u64, handle: u64, sink: &mut dyn ZeroCopyWriter, size: u32, offset: u64, owner: Option<u64>, flags: u32)
            -> usize;
        write(inode: u64, handle: u64, source: &mut dyn ZeroCopyReader, size: u32, offset: u64, owner: Option<u64>,
            delayed: bool, flags: u32, fuse_flags: u32) -> usize;
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        how: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        room()?;
        let (entry, handle, options, backing) = self.inner.create(&self.ids.maker(context)?, parent, name, how)?;
        Ok((self.shown(entry), handle, options, backing))
    }

    fn lookup(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.inner.lookup(context, parent, name).map(|entry| self.shown(entry))
    }

    fn getattr(&self, context: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        self.inner.getattr(context, inode, handle).map(|(about, valid)| (self.ids.shown(about), valid))
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        mut attributes: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        if valid.contains(SetattrValid::UID) {
            attributes.st_uid = self.ids.new_owner(attributes.st_uid)?;
        }
        if valid.contains(SetattrValid::GID) {
            attributes.st_gid = self.ids.new_group(attributes.st_gid)?;
        }
        let (about, valid) = self.inner.setattr(context, inode, attributes, handle, valid)?;
        Ok((self.ids.shown(about), valid))
    }

    fn setxattr(&self, context: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        self.check_xattr(name)?;
        if self.ids.is_empty() || name.to_bytes() != CAPABILITIES {
            return self.inner.setxattr(context, inode, name, value, flags);
        }
        self.inner.setxattr(context, inode, name, &self.ids.caps_to_disk(value)?, flags)
    }

    fn getxattr(&self, context: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.check_xattr(name)?;
        if self.ids.is_empty() || name.to_bytes() != CAPABILITIES {
            return self.inner.getxattr(context, inode, name, size);
        }
        match self.inner.getxattr(context, inode, name, MAX_CAPABILITIES)? {
            GetxattrReply::Value(value) => {
                let value = self.ids.caps_to_guest(value)?;
                match size as usize {
                    0 => Ok(GetxattrReply::Count(value.len() as u32)),
                    size if size < value.len() => Err(io::Error::from_raw_os_error(libc::ERANGE)),
                    _ => Ok(GetxattrReply::Value(value)),
                }
            }
            count => Ok(count),
        }
    }

    fn forget(&self, context: &Context, inode: u64, count: u64) {
        self.inner.forget(context, inode, count);
    }

    fn batch_forget(&self, context: &Context, requests: Vec<(u64, u64)>) {
        self.inner.batch_forget(context, requests);
    }

    fn readdir(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let Some(offset) = self.dots(context, inode, offset, add)? else { return Ok(()) };
        again(|| self.inner.readdir(context, inode, handle, size, offset, add))
    }
}
