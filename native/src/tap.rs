//! `tap-attach`: makes the open /dev/net/tun on descriptor 3 a tap device. The descriptor's owner has it when this ends.
use std::io;
use std::os::fd::RawFd;

const TUN: RawFd = 3;

/// Prints the name that the kernel gave, which for an empty one or a pattern (`tap%d`) is another.
pub fn attach(args: &[String]) -> Result<(), String> {
    let [name] = args else { return Err("it takes NAME".into()) };
    if name.len() >= libc::IFNAMSIZ {
        return Err(format!("{name}: at most {} bytes", libc::IFNAMSIZ - 1));
    }
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    if unsafe { libc::ioctl(TUN, libc::TUNSETIFF, &mut request) } < 0 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        return Err(format!("{name}\nerrno {errno}"));
    }
    let given: Vec<u8> = request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8).collect();
    println!("{}", String::from_utf8_lossy(&given));
    Ok(())
}
