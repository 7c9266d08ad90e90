//! A guest's network interface as the daemon describes it.
use super::netlink::Netlink;
use crate::agent::{Fault, Outcome};
use crate::{host, sys, wire};
use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

fn parse_cidr(field: &str, text: &str) -> Outcome<(IpAddr, u8)> {
    let wrong = || Fault::invalid(format!("{field} '{}' must be ADDRESS/PREFIX", text.escape_debug()));
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if prefix > if address.is_ipv4() { 32 } else { 128 } {
        return Err(wrong());
    }
    Ok((address, prefix))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> = text.split(':').map_while(|part| u8::from_str_radix(part, 16).ok()).collect();
    octets.try_into().ok()
}

/// Name and index of the device with this MAC address in this thread's network namespace.
fn find(mac: &str) -> Option<(String, u32)> {
    let mac = parse_mac(mac)?;
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    sys::check(unsafe { libc::getifaddrs(&mut first) }).ok()?;
    let (mut found, mut next) = (None, first);
    while let (None, Some(entry)) = (&found, unsafe { next.as_ref() }) {
        next = entry.ifa_next;
        let Some(address) = (unsafe { entry.ifa_addr.as_ref() }) else { continue };
        if i32::from(address.sa_family) != libc::AF_PACKET {
            continue;
        }
        // Of that family, it is a sockaddr_ll.
        let link: libc::sockaddr_ll = unsafe { std::ptr::read_unaligned(entry.ifa_addr.cast()) };
        if link.sll_halen == 6 && link.sll_addr[..6] == mac {
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found = Some((name.to_string_lossy().into_owned(), link.sll_ifindex as u32));
        }
    }
    unsafe { libc::freeifaddrs(first) };
    found
}

pub fn loopback_up() -> io::Result<()> {
    // Index 1 is always the loopback device.
    Netlink::open()?.set_up(1, true)
}

/// Gives the device to the network namespace of a process; one that is not here is there already.
pub fn hand_over(interface: &wire::Interface, pid: i32) -> Outcome<()> {
    let Some((_, index)) = find(&interface.mac) else { return Ok(()) };
    let moved = Netlink::open().and_then(|netlink| netlink.move_to(index, pid));
    moved.map_err(|e| Fault::io(format!("interface {}: to the pod's namespace", interface.name), e))
}

pub fn configure(interface: &wire::Interface) -> Outcome<()> {
    let name = &interface.name;
    if name.is_empty()
        || name.len() > 15
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(Fault::invalid(format!("interface name '{}': 1 to 15 of [a-zA-Z0-9_.-]", name.escape_debug())));
    }
    let (current, index) = find(&interface.mac).ok_or_else(|| {
        Fault::new(wire::error::Code::NotFound, format!("interface {name}: no device has mac '{}'", interface.mac))
    })?;
    let failed = |what: String| move |e: std::io::Error| Fault::io(format!("interface {name}: {what}"), e);
    let netlink = Netlink::open().map_err(failed("netlink".into()))?;
    if current != *name {
        netlink.set_up(index, false).map_err(failed("down".into()))?;
        netlink.rename(index, name).map_err(failed("rename".into()))?;
    }
    // A router advertisement must not give a pod addresses or routes that CNI did not.
    let _ = host::write_sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
    if interface.mtu > 0 {
        netlink.set_mtu(index, interface.mtu).map_err(failed(format!("mtu {}", interface.mtu)))?;
    }
    netlink.set_up(index, true).map_err(failed("up".into()))?;
    for text in &interface.addresses {
        let (address, prefix) = parse_cidr("address", text)?;
        netlink.add_address(index, &address, prefix).map_err(failed(format!("address {text}")))?;
    }
    // Routes on the link first: a gateway may be reached by one of them.
    let mut routes: Vec<&wire::Route> = interface.routes.iter().collect();
    routes.sort_by_key(|route| !route.gateway.is_empty());
    for route in routes {
        let (destination, prefix) = parse_cidr("route destination", &route.destination)?;
        let gateway = match route.gateway.as_str() {
            "" => None,
            text => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| Fault::invalid(format!("route gateway '{text}' is not an address")))?,
            ),
        };
        let what = format!("route {} via '{}'", route.destination, route.gateway);
        netlink.add_route(index, &destination, prefix, gateway.as_ref()).map_err(failed(what))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac() {
        assert_eq!(parse_mac("02:Ab:00:00:00:ff"), Some([2, 0xab, 0, 0, 0, 0xff]));
        for bad in ["", "02:ab:00:00:00", "02:ab:00:00:00:ff:01", "02:ab:00:00:00:xx", "02-ab-00-00-00-ff"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
        assert_eq!(find("06:00:5e:00:53:fe"), None);
    }

    #[test]
    fn cidr() {
        assert_eq!(parse_cidr("a", "10.1.2.3/24").unwrap(), ("10.1.2.3".parse().unwrap(), 24));
        assert_eq!(parse_cidr("a", "::/0").unwrap(), ("::".parse().unwrap(), 0));
        for bad in ["", "10.0.0.1", "10.0.0.1/33", "::1/129", "x/8", "10.0.0.1/-1", "10.0.0.1/8/8"] {
            assert!(parse_cidr("a", bad).is_err(), "{bad}");
        }
    }
}
