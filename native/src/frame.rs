//! Frames of the agent's protocol: an 8-byte header, then at most 1 MiB. The layout is in agent.proto.
use std::io::{self, Read, Write};

pub const MAX_PAYLOAD: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hello = 1,
    Request = 2,
    Response = 3,
    Event = 4,
    Data = 5,
    Eof = 6,
    Resize = 7,
    Exit = 8,
    Ack = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Request,
            3 => Kind::Response,
            4 => Kind::Event,
            5 => Kind::Data,
            6 => Kind::Eof,
            7 => Kind::Resize,
            8 => Kind::Exit,
            9 => Kind::Ack,
            _ => return None,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub channel: u8,
    pub payload: Vec<u8>,
}

/// The header of a frame: kind, channel and payload length.
pub fn decode_header(header: &[u8; 8]) -> io::Result<(Kind, u8, usize)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("frame: {what}"));
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(invalid("length over 1 MiB"));
    }
    if header[6] != 0 || header[7] != 0 {
        return Err(invalid("reserved bytes not 0"));
    }
    let kind = Kind::from_byte(header[4]).ok_or_else(|| invalid("unknown kind"))?;
    Ok((kind, header[5], length))
}

/// Reads one frame; `None` at a clean end between frames.
pub fn read(source: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0u8; 8];
    let mut have = 0;
    while have < header.len() {
        match source.read(&mut header[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (kind, channel, length) = decode_header(&header)?;
    // Grows with what really arrives, so a header alone cannot make us hold 1 MiB.
    let mut payload = Vec::with_capacity(length.min(64 * 1024));
    source.take(length as u64).read_to_end(&mut payload)?;
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Frame { kind, channel, payload }))
}

/// Writes one frame. `payload` must not be over `MAX_PAYLOAD`.
pub fn write(sink: &mut impl Write, kind: Kind, channel: u8, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame: payload over 1 MiB"));
    }
    let mut bytes = Vec::with_capacity(8 + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&[kind as u8, channel, 0, 0]);
    bytes.extend_from_slice(payload);
    sink.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_truncation() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Data, 2, b"hello").unwrap();
        let frame = read(&mut &bytes[..]).unwrap().unwrap();
        assert_eq!(frame, Frame { kind: Kind::Data, channel: 2, payload: b"hello".to_vec() });
        assert!(read(&mut &bytes[..0]).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(read(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_what_the_header_may_not_say() {
        assert!(decode_header(&[0, 16, 0, 1, 5, 0, 0, 0]).is_err());
        assert!(decode_header(&[0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(decode_header(&[0, 0, 0, 0, 10, 0, 0, 0]).is_err());
        assert!(decode_header(&[0, 0, 0, 0, 5, 0, 1, 0]).is_err());
        assert!(decode_header(&[0, 16, 0, 0, 5, 0, 0, 0]).is_ok());
    }
}
