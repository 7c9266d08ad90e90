//! The fuzz target without a fuzzer: the committed corpus, and mutations of it that are the same each time.
use crate::frame::{self, Kind};
use crate::{exercise, wire};
use prost::Message;
use std::path::Path;

const MUTATIONS: usize = 300_000;

/// xorshift64*: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frames");
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, 16][random.below(6)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next() as u8),
            4 if !bytes.is_empty() => drop(bytes.drain(at..(at + random.below(9)).min(bytes.len()))),
            _ => bytes.extend_from_slice(&other[random.below(other.len())..]),
        }
    }
}

#[test]
fn corpus_and_mutations_of_it() {
    let corpus = corpus();
    let right: usize = corpus.iter().map(|bytes| exercise::frames(bytes)).sum();
    assert!(corpus.len() >= 10 && right >= 10, "{} files, {right} frames", corpus.len());
    let mut random = Random(7);
    let mut decoded = 0;
    for _ in 0..MUTATIONS {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        mutate(&mut bytes, &corpus[random.below(corpus.len())], &mut random);
        decoded += exercise::frames(&bytes);
    }
    // Mutations that never get past the header would show nothing.
    assert!(decoded > MUTATIONS / 4, "{decoded} frames");
}

/// Writes the corpus's first files: `cargo test write_corpus -- --ignored` after a change of the protocol.
#[test]
#[ignore = "writes into the source tree"]
fn write_corpus() {
    use wire::request::Body;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frames");
    let request = |body: Body| (Kind::Request, wire::Request { id: 7, body: Some(body) }.encode_to_vec());
    let id = || "0123456789abcdef".to_owned();
    let files: Vec<(&str, (Kind, Vec<u8>))> = vec![
        (
            "hello",
            (
                Kind::Hello,
                wire::Hello { protocol: 1, version: "0.1.0".into(), guest: true, boot_id: id() }.encode_to_vec(),
            ),
        ),
        ("create", request(Body::CreateContainer(wire::CreateContainer { id: id(), ..Default::default() }))),
        ("empty-request", (Kind::Request, Vec::new())),
        ("response", (Kind::Response, wire::Response { id: 7, ..Default::default() }.encode_to_vec())),
        ("event", (Kind::Event, wire::Event { body: Some(wire::event::Body::Oom(id())) }.encode_to_vec())),
        ("data", (Kind::Data, b"output\n".to_vec())),
        ("eof", (Kind::Eof, Vec::new())),
        ("resize", (Kind::Resize, wire::TerminalSize { ..Default::default() }.encode_to_vec())),
        ("exit", (Kind::Exit, wire::ExitStatus { ..Default::default() }.encode_to_vec())),
        ("ack", (Kind::Ack, 5u64.to_be_bytes().to_vec())),
    ];
    let mut all = Vec::new();
    for (name, (kind, payload)) in &files {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, *kind, 1, payload).unwrap();
        all.extend_from_slice(&bytes);
        std::fs::write(directory.join(name), bytes).unwrap();
    }
    std::fs::write(directory.join("conversation"), all).unwrap();
    std::fs::write(directory.join("header-of-1-mib"), [0, 16, 0, 0, 5, 0, 0, 0]).unwrap();
    std::fs::write(directory.join("header-too-long"), [0, 16, 0, 1, 5, 0, 0, 0]).unwrap();
}
