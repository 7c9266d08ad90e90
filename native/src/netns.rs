//! `netns-add`: a named network namespace, found by `ip netns` as well, ready for a CNI plugin.
use crate::{guest::netlink::Netlink, sys, userns};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

const DIRECTORY: &str = "/run/netns";
/// The loopback device is the first of every namespace.
const LOOPBACK: u32 = 1;

/// Makes the directory a mount point that passes its mounts on, as `ip netns` does: each namespace is a bind mount in it.
fn prepare_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let share = || sys::mount("", directory, "", libc::MS_SHARED | libc::MS_REC, "");
    share().or_else(|_| {
        sys::mount(DIRECTORY, directory, "", libc::MS_BIND | libc::MS_REC, "")?;
        share()
    })
}

/// Pods take no router's advertisements: a neighbour could send itself their traffic (CVE-2020-10749). Interfaces made later inherit it.
fn refuse_router_advertisements() -> io::Result<()> {
    for scope in ["all", "default"] {
        match fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_ra"), "0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // no IPv6 here
            other => other?,
        }
    }
    Ok(())
}

fn add(name: &str, uids: &userns::Map, gids: &userns::Map) -> io::Result<()> {
    let directory = Path::new(DIRECTORY);
    prepare_directory(directory)?;
    let path = directory.join(name);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path)?;
    let made = (|| {
        let bind = |whose: &str| sys::mount(&format!("/proc/{whose}/ns/net"), &path, "", libc::MS_BIND, "");
        if uids.is_empty() {
            sys::check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            bind("self")?;
        } else {
            userns::with_child(libc::CLONE_NEWNET, uids, gids, |pid| bind(&pid.to_string()))?;
            sys::join_namespace(&path.to_string_lossy(), libc::CLONE_NEWNET)?;
        }
        refuse_router_advertisements()?;
        Netlink::open()?.set_up(LOOPBACK, true)
    })();
    if made.is_err() {
        let _ = sys::unmount(&path);
        let _ = fs::remove_file(&path);
    }
    made
}

pub fn run(args: &[String]) -> Result<(), String> {
    let (mut name, mut uids, mut gids) = (None, userns::Map::new(), userns::Map::new());
    let mut rest = args.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--uid-map" => uids.push(userns::parse_mapping(value()?)?),
            "--gid-map" => gids.push(userns::parse_mapping(value()?)?),
            _ if name.is_none() => name = Some(argument),
            _ => return Err(format!("'{argument}': one NAME is expected")),
        }
    }
    let name = name.ok_or("a NAME is expected")?;
    if uids.is_empty() != gids.is_empty() {
        return Err("--uid-map and --gid-map are needed together".into());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(format!(
            "name '{}': 1 to 255 letters, digits, '.', '_' and '-', no '.' first",
            name.escape_debug()
        ));
    }
    add(name, &uids, &gids).map_err(|error| format!("{DIRECTORY}/{name}: {error}"))
}
