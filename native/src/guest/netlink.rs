//! The few rtnetlink requests that a guest needs (rtnetlink(7)): links, addresses, routes.
use crate::sys;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub struct Netlink(OwnedFd);

struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Message {
        let mut bytes = vec![0u8; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

fn octets(address: &IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let fd = sys::check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        Ok(Netlink(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn request(&self, mut message: Message) -> io::Result<()> {
        let length = message.0.len() as u32;
        message.0[..4].copy_from_slice(&length.to_ne_bytes());
        let fd = self.0.as_raw_fd();
        let sent = unsafe { libc::send(fd, message.0.as_ptr().cast(), message.0.len(), 0) };
        sys::check(sent as i32)?;
        let mut answer = [0u8; 4096];
        let count = sys::read_fd(fd, &mut answer)?;
        // nlmsghdr (16 bytes, type at 4), then for an acknowledgement the errno, negative.
        if count < 20 || u16::from_ne_bytes([answer[4], answer[5]]) != libc::NLMSG_ERROR as u16 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink: no acknowledgement"));
        }
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }

    fn link(&self, index: u32, flags: u32, change: u32) -> Message {
        let mut body = [0u8; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&flags.to_ne_bytes());
        body[12..16].copy_from_slice(&change.to_ne_bytes());
        Message::new(libc::RTM_NEWLINK, 0, &body)
    }

    pub fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let flag = libc::IFF_UP as u32;
        self.request(self.link(index, if up { flag } else { 0 }, flag))
    }

    pub fn rename(&self, index: u32, name: &str) -> io::Result<()> {
        let mut message = self.link(index, 0, 0);
        message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        self.request(message)
    }

    /// Gives the device to the network namespace of a process.
    pub fn move_to(&self, index: u32, pid: i32) -> io::Result<()> {
        let mut message = self.link(index, 0, 0);
        message.attribute(libc::IFLA_NET_NS_PID, &pid.to_ne_bytes());
        self.request(message)
    }

    pub fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = self.link(index, 0, 0);
        message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.request(message)
    }

    /// Adds or replaces an address.
    pub fn add_address(&self, index: u32, address: &IpAddr, prefix: u8) -> io::Result<()> {
        let (family, bytes) = octets(address);
        let mut body = [family, prefix, 0, 0, 0, 0, 0, 0];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body);
        if family == libc::AF_INET as u8 {
            message.attribute(libc::IFA_LOCAL, &bytes);
        }
        message.attribute(libc::IFA_ADDRESS, &bytes);
        // The CNI plugin has seen to it that the address is nobody else's.
        message.attribute(libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        self.request(message)
    }

    /// Adds or replaces a route; without a gateway it is on the link.
    pub fn add_route(&self, index: u32, destination: &IpAddr, prefix: u8, gateway: Option<&IpAddr>) -> io::Result<()> {
        let (family, bytes) = octets(destination);
        let scope = if gateway.is_some() || family == libc::AF_INET6 as u8 { 0 } else { libc::RT_SCOPE_LINK };
        let body =
            [family, prefix, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body);
        if prefix > 0 {
            message.attribute(libc::RTA_DST, &bytes);
        }
        if let Some(gateway) = gateway {
            message.attribute(libc::RTA_GATEWAY, &octets(gateway).1);
        }
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.request(message)
    }
}
