//! What must hold for any bytes that a peer sends. Used by the fuzz target, and by `cargo test` for the corpus.
use crate::frame::{self, Kind};
use crate::wire;
use prost::Message;

/// Decodes a message; what came out has to survive its own encoding.
fn message<M: Message + Default>(payload: &[u8]) {
    let Ok(decoded) = M::decode(payload) else { return };
    let encoded = decoded.encode_to_vec();
    let again = M::decode(&encoded[..]).expect("what was encoded decodes");
    // Bytes, since a NaN is not equal to itself.
    assert_eq!(again.encode_to_vec().len(), encoded.len(), "a message changes by being encoded");
}

/// Reads `bytes` as a connection's; the number of frames that were right.
pub fn frames(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut count = 0;
    loop {
        let before = rest;
        let frame = match frame::read(&mut rest) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                assert!(before.is_empty(), "a clean end with bytes left");
                return count;
            }
            Err(_) => return count,
        };
        count += 1;
        let size = 8 + frame.payload.len();
        assert!(frame.payload.len() <= frame::MAX_PAYLOAD);
        assert_eq!(rest.len(), before.len() - size, "a frame takes its own bytes, no more");
        let mut encoded = Vec::new();
        frame::write(&mut encoded, frame.kind, frame.channel, &frame.payload).expect("what was read can be written");
        assert_eq!(encoded, before[..size], "a frame has one form");
        match frame.kind {
            Kind::Hello => message::<wire::Hello>(&frame.payload),
            Kind::Request => message::<wire::Request>(&frame.payload),
            Kind::Response => message::<wire::Response>(&frame.payload),
            Kind::Event => message::<wire::Event>(&frame.payload),
            Kind::Resize => message::<wire::TerminalSize>(&frame.payload),
            Kind::Exit => message::<wire::ExitStatus>(&frame.payload),
            Kind::Data | Kind::Eof | Kind::Ack => {}
        }
    }
}
