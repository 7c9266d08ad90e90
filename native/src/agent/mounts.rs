//! Mounts made ready in a bundle before the OCI runtime binds them: read-only to the last mount below, id-mapped.
use super::container::check_id;
use super::{Fault, Outcome};
use crate::{sys, userns, wire};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const AT_RECURSIVE: libc::c_int = 0x8000;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// struct mount_attr of linux/mount.h
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    sys::check(fd as libc::c_int).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_attributes(tree: &OwnedFd, flags: libc::c_int, attributes: &MountAttr) -> io::Result<()> {
    let size = std::mem::size_of::<MountAttr>();
    let flags = libc::AT_EMPTY_PATH | flags;
    let result =
        unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, attributes, size) };
    sys::check(result as libc::c_int).map(|_| ())
}

/// A private copy of the mounts below what `file` is, attached nowhere.
fn copy_tree(file: &impl AsRawFd) -> io::Result<OwnedFd> {
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | (AT_RECURSIVE | libc::AT_EMPTY_PATH) as libc::c_uint;
    let tree = owned(unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) })?;
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    set_attributes(&tree, AT_RECURSIVE, &private)?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let target = sys::c_string(target.as_os_str().as_bytes())?;
    let (from, at): (RawFd, _) = (tree.as_raw_fd(), libc::AT_FDCWD);
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), at, target.as_ptr(), flags) };
    sys::check(result as libc::c_int).map(|_| ())
}

fn map_ids(tree: &OwnedFd, namespace: &impl AsRawFd) -> io::Result<()> {
    let attributes =
        MountAttr { set: MOUNT_ATTR_IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..MountAttr::default() };
    set_attributes(tree, 0, &attributes)
}

fn open_path(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

/// `sub_path` below `root`, as if `root` were "/": links of an image lead nowhere else.
fn open_below(root: &File, sub_path: &str) -> io::Result<File> {
    let path = sys::c_string(sub_path)?;
    // struct open_how of linux/openat2.h: flags, mode, resolve
    let how: [u64; 3] = [(libc::O_PATH | libc::O_CLOEXEC) as u64, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS];
    let size = std::mem::size_of_val(&how);
    let fd = unsafe { libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), how.as_ptr(), size) };
    owned(fd).map(File::from)
}

fn map_of(mappings: &[wire::IdMapping]) -> userns::Map {
    mappings.iter().map(|one| (one.inside, one.outside, one.length)).collect()
}

/// A copy of `lower` whose files belong to the ids that the namespace of `holder` has outside.
pub fn shift_lower(lower: &Path, target: &Path, holder: i32) -> Outcome<()> {
    let done = || -> io::Result<()> {
        fs::create_dir_all(target)?;
        let tree = copy_tree(&open_path(lower)?)?;
        map_ids(&tree, &File::open(format!("/proc/{holder}/ns/user"))?)?;
        attach(&tree, target)
    };
    done().map_err(|e| Fault::io("id-mapped image of a pod with a user namespace", e))
}

/// Makes one mount at `directory`/NAME from `source`, which is where its path or drive is.
pub fn prepare(directory: &Path, request: &wire::PreparedMount, source: &Path) -> Outcome<()> {
    check_id(&request.name)?;
    let what = format!("mount of {}", source.display());
    let failed = |step: &'static str| {
        let what = what.clone();
        move |error: io::Error| Fault::io(format!("{what}: {step}"), error)
    };
    let mut file = open_path(source).map_err(failed("open"))?;
    if !request.sub_path.is_empty() {
        file = open_below(&file, &request.sub_path).map_err(|e| {
            Fault::new(wire::error::Code::NotFound, format!("{what}: sub-path {:?}: {e}", request.sub_path))
        })?;
    }
    let tree = copy_tree(&file).map_err(failed("copy"))?;
    if !request.uid_mappings.is_empty() || !request.gid_mappings.is_empty() {
        let namespace = userns::make(&map_of(&request.uid_mappings), &map_of(&request.gid_mappings))
            .map_err(failed("user namespace for its id mappings"))?;
        map_ids(&tree, &namespace).map_err(failed("id mapping, which its file system may not support"))?;
    }
    if request.recursive_readonly {
        let attributes = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        set_attributes(&tree, AT_RECURSIVE, &attributes).map_err(failed("recursive read-only"))?;
    }
    fs::create_dir_all(directory).map_err(failed("mount point"))?;
    let target = directory.join(&request.name);
    let is_directory = file.metadata().map_err(failed("stat"))?.is_dir();
    let made = if is_directory { fs::create_dir(&target) } else { File::create(&target).map(drop) };
    made.map_err(failed("mount point"))?;
    attach(&tree, &target).map_err(failed("attach"))
}

/// Unmounts what was prepared below `bundle`; fine at any stage, and again. False while something is still mounted there:
/// then nothing may be removed recursively, for it could be a volume's content.
pub fn release(bundle: &Path) -> bool {
    let mut points: Vec<PathBuf> =
        fs::read_dir(bundle.join("mounts")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    points.push(bundle.join("lower"));
    for point in points.iter().filter(|point| point.symlink_metadata().is_ok()) {
        let _ = sys::unmount(point);
        // A mount point that is in use can be removed by neither.
        if fs::remove_dir(point).is_err() && fs::remove_file(point).is_err() {
            eprintln!("{} is still mounted", point.display());
            return false;
        }
    }
    true
}

/// Where a prepared mount's source is in the guest or on the host.
pub fn path_of(request: &wire::PreparedMount) -> Outcome<PathBuf> {
    match &request.source {
        Some(wire::prepared_mount::Source::Path(path)) if path.starts_with('/') => Ok(path.into()),
        Some(wire::prepared_mount::Source::Path(path)) => {
            Err(Fault::invalid(format!("mounts.path '{}' must be absolute", path.escape_debug())))
        }
        _ => Err(Fault::invalid("mounts.source: a path on the host, a drive in a guest")),
    }
}
