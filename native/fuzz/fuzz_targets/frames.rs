//! What a peer sends to the agent: frames, and the messages in them. `make fuzz` runs it.
#![no_main]
#[path = "../../src/frame.rs"]
mod frame;
#[path = "../exercise.rs"]
mod exercise;

#[allow(clippy::all, dead_code)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/tinderbox.agent.v1.rs"));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    exercise::frames(bytes);
});
