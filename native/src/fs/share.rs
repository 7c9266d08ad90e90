//! `fs-add` and `fs-remove`: put a host directory or file into a running server's own view, and take it out again. The
//! server itself has no right to mount.
use super::ids::Ids;
use super::{is_id, MAPS, VOLUMES};
use crate::{sys, userns};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

// linux/mount.h
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NODEV: u64 = 4;

/// struct mount_attr of linux/mount.h
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

#[derive(Default)]
struct Options {
    pid: i32,
    start_time: String,
    id: String,
    source: PathBuf,
    readonly: bool,
    recursive: bool,
    slave: bool,
    uids: userns::Map,
    gids: userns::Map,
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--pid" => options.pid = value()?.parse().map_err(|_| "--pid must be a number")?,
            "--start-time" => options.start_time = value()?,
            "--id" => options.id = value()?,
            "--source" => options.source = value()?.into(),
            "--readonly" => options.readonly = true,
            "--recursive-readonly" => (options.readonly, options.recursive) = (true, true),
            "--slave" => options.slave = true,
            "--uid-map" => options.uids.push(userns::parse_mapping(&value()?)?),
            "--gid-map" => options.gids.push(userns::parse_mapping(&value()?)?),
            _ => return Err(format!("unknown option '{option}'; see tinderbox-native help")),
        }
    }
    if !is_id(&options.id) {
        return Err(format!("--id '{}' must match [a-z0-9]{{1,32}}", options.id.escape_debug()));
    }
    Ok(options)
}

fn set_attributes(tree: &OwnedFd, set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr { set, clear: 0, propagation, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = std::mem::size_of::<MountAttr>();
    let pointer = std::ptr::from_ref(&attributes);
    let result =
        unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, pointer, size) };
    sys::check(result as i32).map(|_| ())
}

/// A copy of the mounts at `source`, attached nowhere, as the server shall see them.
fn clone_tree(options: &Options) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let path = sys::c_string(options.source.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | libc::AT_RECURSIVE as libc::c_uint | libc::O_CLOEXEC as libc::c_uint;
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let tree = unsafe { OwnedFd::from_raw_fd(sys::check(fd as i32)?) };
    // A device on the host is nothing that a guest may open.
    let propagation = if options.slave { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    let everywhere = MOUNT_ATTR_NODEV | if options.recursive { MOUNT_ATTR_RDONLY } else { 0 };
    set_attributes(&tree, everywhere, propagation, true)?;
    if options.readonly {
        set_attributes(&tree, MOUNT_ATTR_RDONLY, 0, false)?;
    }
    Ok(tree)
}

fn has_mounts_below(source: &Path) -> io::Result<bool> {
    let source = std::fs::canonicalize(source)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // In a mount point's path, blanks and the like are octal numbers; they are compared as they would be written.
    let text = source.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    let prefix = format!("{}/", text.trim_end_matches('/').replace('\n', "\\012"));
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4).is_some_and(|point| point.len() > 1 && point.starts_with(&prefix))))
}

/// Into the mount namespace of that very process.
fn enter(options: &Options) -> io::Result<()> {
    let fd = sys::check(unsafe { libc::syscall(libc::SYS_pidfd_open, options.pid, 0) } as i32)?;
    let process = unsafe { OwnedFd::from_raw_fd(fd) };
    // With the pidfd open, the pid cannot be given to another before this is compared.
    if sys::start_time(options.pid).as_deref() != Some(options.start_time.as_str()) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    sys::check(unsafe { libc::setns(process.as_raw_fd(), libc::CLONE_NEWNS) }).map(|_| ())
}

fn target(options: &Options) -> PathBuf {
    Path::new(VOLUMES).join(&options.id)
}

fn maps(options: &Options) -> PathBuf {
    Path::new(MAPS).join(&options.id)
}

fn write_maps(options: &Options) -> Result<(), String> {
    let ids = Ids::new(options.uids.clone(), options.gids.clone());
    if ids.is_empty() {
        return Ok(());
    }
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(maps(options));
    written.and_then(|mut file| io::Write::write_all(&mut file, ids.text().as_bytes())).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "the pod's server, of an older version, cannot map ids: make the pod anew".into(),
        _ => format!("its id mappings: {e}"),
    })
}

fn attach(options: &Options, tree: &OwnedFd, is_directory: bool) -> io::Result<()> {
    let target = target(options);
    if is_directory {
        std::fs::create_dir(&target)?;
    } else {
        std::fs::OpenOptions::new().write(true).create_new(true).open(&target)?;
    }
    use std::os::unix::ffi::OsStrExt;
    let path = sys::c_string(target.as_os_str().as_bytes())?;
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    sys::check(moved as i32).map(|_| ())
}

fn detach(options: &Options) -> io::Result<()> {
    let target = target(options);
    sys::unmount(&target)?;
    let is_there = |path: &Path| match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    match is_there(&target)? {
        None => {}
        Some(about) if about.is_dir() => std::fs::remove_dir(&target)?,
        Some(_) => std::fs::remove_file(&target)?,
    }
    match is_there(&maps(options))? {
        None => Ok(()),
        Some(_) => std::fs::remove_file(maps(options)),
    }
}

pub fn add(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    let source = options.source.display();
    let about = std::fs::metadata(&options.source).map_err(|e| format!("{source}: {e}"))?;
    if !about.is_dir() && !about.is_file() {
        return Err(format!("{source}: a directory or a regular file can be served, no device, socket or pipe"));
    }
    let is_nested = has_mounts_below(&options.source).map_err(|e| format!("{source}: {e}"))?;
    let tree = clone_tree(&options).map_err(|e| format!("{source}: {e}"))?;
    enter(&options).map_err(|e| format!("process {}: {e}", options.pid))?;
    // Before the volume is there: nobody is ever served one with its owners as they are.
    let attached =
        write_maps(&options).and_then(|()| attach(&options, &tree, about.is_dir()).map_err(|e| e.to_string()));
    attached.map_err(|e| {
        let _ = detach(&options);
        format!("volume {}: {e}", options.id)
    })?;
    println!("{}{}", if about.is_dir() { "directory" } else { "file" }, if is_nested { " nested" } else { "" });
    Ok(())
}

/// What is not there is fine.
pub fn remove(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    enter(&options).map_err(|e| format!("process {}: {e}", options.pid))?;
    detach(&options).map_err(|e| format!("volume {}: {e}", options.id))
}
