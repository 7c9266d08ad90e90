//! `notify`: tells the service manager (sd_notify(3)); Node has no datagram sockets of this kind.
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `args`, a line each, to `$NOTIFY_SOCKET`; without one there is nobody to tell.
pub fn run(args: &[String]) -> Result<(), String> {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(args.join("\n").as_bytes(), &address));
    sent.map(|_| ()).map_err(|error| format!("NOTIFY_SOCKET {name}: {error}"))
}
