// The guest's side of the examples: sends back whatever comes on a vsock port.   vsock-echo PORT
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    rest: [u8; 4],
}

extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn bind(fd: i32, address: *const Address, length: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn accept(fd: i32, address: *mut Address, length: *mut u32) -> i32;
}

const AF_VSOCK: i32 = 40;
const ANY: u32 = u32::MAX;

fn main() {
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("usage: vsock-echo PORT");
    let address = Address { family: AF_VSOCK as u16, reserved: 0, port, cid: ANY, rest: [0; 4] };
    // SAFETY: the address lives through the call and its length is its own.
    let listener = unsafe {
        let fd = socket(AF_VSOCK, 1, 0);
        assert!(fd >= 0 && bind(fd, &address, 16) == 0 && listen(fd, 16) == 0, "{}", std::io::Error::last_os_error());
        fd
    };
    println!("vsock-echo: port {port}");
    loop {
        // SAFETY: no address is asked for; what comes back is a new descriptor or -1.
        let fd = unsafe { accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) };
        if fd < 0 {
            continue;
        }
        // SAFETY: nobody else has this descriptor.
        let mut stream = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        });
    }
}
