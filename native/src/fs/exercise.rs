//! A real server thread on a temporary directory, and what must hold whatever a guest sends it. Used by the fuzz target, and by
//! `cargo test` for its corpus and for mutations.
use super::gate::{length, HEADER, MAX_MESSAGE};
use super::ids::Ids;
use super::serve::{answer, VolumeServer};
use super::volume::Volume;
use crate::sys::Socket;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A volume with something in it, beside a file that is none of the guest's business.
pub struct Place {
    base: PathBuf,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let base = std::env::temp_dir().join(format!("tb-fs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("volume/dir")).unwrap();
        fs::write(base.join("outside"), "untouched").unwrap();
        fs::write(base.join("volume/file"), "content").unwrap();
        std::os::unix::fs::symlink("../outside", base.join("volume/link")).unwrap();
        Place { base }
    }

    pub fn volume(&self) -> &Path {
        &self.base
    }

    /// Whether everything outside of the volume is as it was.
    fn assert_untouched(&self) {
        assert_eq!(fs::read(self.base.join("outside")).unwrap(), b"untouched");
        let mut around: Vec<_> = fs::read_dir(&self.base).unwrap().map(|e| e.unwrap().file_name()).collect();
        around.sort();
        assert_eq!(around, ["outside", "volume"]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// A server thread for one connection, as serve.rs has it, and the guest's end of it.
pub fn serve(place: &Place) -> UnixStream {
    serve_with(place, Ids::default())
}

pub fn serve_with(place: &Place, ids: Ids) -> UnixStream {
    let (guest, host) = UnixStream::pair().unwrap();
    guest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let volume = VolumeServer::new(Volume::open(place.volume().join("volume").to_str().unwrap(), ids).unwrap());
    std::thread::spawn(move || {
        let mut socket = Socket::new(host.into());
        let (mut request, mut reply) = (vec![0u8; MAX_MESSAGE], vec![0u8; MAX_MESSAGE]);
        loop {
            let mut header = [0; HEADER];
            let Ok(()) = socket.read_exact(&mut header) else { break };
            let Some(length) = length(&header) else { break };
            request[..HEADER].copy_from_slice(&header);
            let Ok(()) = socket.read_exact(&mut request[HEADER..length]) else { break };
            if answer(&volume, &socket, &mut request[..length], &mut reply).is_err() {
                break;
            }
        }
        socket.shutdown();
    });
    guest
}

/// A reply's error (positive, 0: none) and body; None when the server hung up.
pub fn reply(guest: &mut UnixStream) -> Option<(i32, Vec<u8>)> {
    let mut header = [0; 16];
    if guest
        .read_exact(&mut header)
        .map_err(|e| assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "no answer"))
        .is_err()
    {
        return None;
    }
    let length = u32::from_ne_bytes(header[..4].try_into().unwrap()) as usize;
    assert!((16..=MAX_MESSAGE).contains(&length), "a reply of {length} bytes");
    let mut body = vec![0; length - 16];
    guest.read_exact(&mut body).ok()?;
    Some((-i32::from_ne_bytes(header[4..8].try_into().unwrap()), body))
}

/// Sends `bytes` as a guest whose connection has to end by itself behind them.
pub fn send(place: &Place, mut guest: UnixStream, bytes: &[u8]) {
    let _ = guest.write_all(bytes);
    // Ends the connection, whatever is left of a request that was cut.
    let _ = guest.write_all(&[0; HEADER]);
    let _ = guest.shutdown(std::net::Shutdown::Write);
    while reply(&mut guest).is_some() {}
    place.assert_untouched();
}
