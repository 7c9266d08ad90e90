//! Vsock in the guest, for tests; std only, so that rustc alone builds it.
//!   guest-probe echo PORT              serves PORT: what comes goes back
//!   guest-probe shell PORT             serves PORT: a line is a command, what it says is the answer
//!   guest-probe count PORT NUMBERS     connects to the host's PORT and sends 0, 1, 2... as 64-bit numbers
//!   guest-probe dial PORT              connects, says whether that worked
use std::fs::File;
use std::io::{BufRead, BufReader, Error, Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::process::Command;

#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn connect(fd: i32, address: *const VsockAddress, length: u32) -> i32;
    fn bind(fd: i32, address: *const VsockAddress, length: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn accept(fd: i32, address: *mut VsockAddress, length: *mut u32) -> i32;
}

const AF_VSOCK: u16 = 40;
const SOCK_STREAM: i32 = 1;
const HOST: u32 = 2;
const ANY: u32 = u32::MAX;

fn fail(what: &str) -> ! {
    println!("{what}: {}", Error::last_os_error());
    std::process::exit(1)
}

fn serve(fd: RawFd, port: u32, answer: fn(File)) {
    let address = VsockAddress { family: AF_VSOCK, reserved: 0, port, cid: ANY, zero: [0; 4] };
    if unsafe { bind(fd, &address, 16) } < 0 || unsafe { listen(fd, 64) } < 0 {
        fail("bind");
    }
    println!("listening");
    loop {
        let connection = unsafe { accept(fd, std::ptr::null_mut(), std::ptr::null_mut()) };
        if connection < 0 {
            fail("accept");
        }
        std::thread::spawn(move || answer(unsafe { File::from_raw_fd(connection) }));
    }
}

fn echo(mut stream: File) {
    let mut buffer = vec![0; 65536];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

fn shell(stream: File) {
    let mut line = String::new();
    let Ok(_) = BufReader::new(&stream).read_line(&mut line) else { return };
    let said = match Command::new("/bin/sh").arg("-c").arg(line.trim_end()).output() {
        Ok(output) => output.stdout,
        Err(error) => error.to_string().into_bytes(),
    };
    let _ = (&stream).write_all(&said);
}

fn count(mut stream: File, numbers: u64) {
    let mut block = Vec::new();
    for number in 0..numbers {
        block.extend_from_slice(&number.to_le_bytes());
        if block.len() == 4096 || number + 1 == numbers {
            if stream.write_all(&block).is_err() {
                fail("write");
            }
            block.clear();
        }
    }
    println!("sent {numbers}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let port = number(2) as u32;
    let fd = unsafe { socket(i32::from(AF_VSOCK), SOCK_STREAM, 0) };
    if fd < 0 {
        fail("socket");
    }
    match arguments[1].as_str() {
        "echo" => return serve(fd, port, echo),
        "shell" => return serve(fd, port, shell),
        _ => {}
    }
    let address = VsockAddress { family: AF_VSOCK, reserved: 0, port, cid: HOST, zero: [0; 4] };
    if unsafe { connect(fd, &address, 16) } < 0 {
        fail("connect");
    }
    println!("connected");
    if arguments[1] == "count" {
        count(unsafe { File::from_raw_fd(fd) }, number(3));
    }
}
