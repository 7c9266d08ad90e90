//! The network device: frames between a tap and the guest's rings, held back by two rate limiters, with the metadata service
//! answered on the way.
use super::counters::Counters;
use super::memory::{gather, io_vectors, scatter};
use super::metadata::Metadata;
use super::tap::Tap;
use super::token_bucket::RateLimiter;
use super::vhost_user::{Device, Event, Rings, DEVICE_TOKENS, F_VERSION_1};
use serde_json::Value;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const RX: usize = 0;
const TX: usize = 1;
const TOKEN_TAP: u64 = DEVICE_TOKENS;
pub const TOKEN_WAKE: u64 = DEVICE_TOKENS + 1;

const F_MERGEABLE: u64 = 1 << 15;
/// CSUM, GUEST_CSUM, MTU, GUEST_TSO4 and 6, HOST_TSO4 and 6, MRG_RXBUF
const FEATURES: u64 = 0b1001_1001_1000_1011;
/// Where a header says over how many buffers a frame is spread
const NUM_BUFFERS: usize = 10;
const MAX_FRAME: usize = 65536 + 64;
const MAX_BUFFERS: usize = 64;
/// Frames of one direction before the other has its turn
const BUDGET: usize = 256;

/// What the control thread asks of the device's.
#[derive(Default)]
pub struct Orders {
    pub rx: Vec<Value>,
    pub tx: Vec<Value>,
    pub metadata: Option<Metadata>,
    /// Bytes of the metadata service for a connection, and whether it is over
    pub answers: Vec<(usize, Vec<u8>, bool)>,
}

pub struct Net {
    tap: Tap,
    rx_limiter: RateLimiter,
    tx_limiter: RateLimiter,
    /// When a limiter lets the next frame pass
    rx_at: Option<Instant>,
    tx_at: Option<Instant>,
    /// A frame read from the tap, header first, that has not found room
    held: Vec<u8>,
    buffer: Vec<u8>,
    is_watching_tap: bool,
    metadata: Option<Metadata>,
    orders: Arc<Mutex<Orders>>,
    counters: Arc<Counters>,
}

impl Net {
    pub fn new(tap: Tap, orders: Arc<Mutex<Orders>>, counters: Arc<Counters>) -> Net {
        Net {
            tap,
            rx_limiter: RateLimiter::default(),
            tx_limiter: RateLimiter::default(),
            rx_at: None,
            tx_at: None,
            held: Vec::new(),
            buffer: vec![0; MAX_FRAME],
            is_watching_tap: false,
            metadata: None,
            orders,
            counters,
        }
    }

    fn header_bytes(rings: &Rings) -> usize {
        if rings.features & (F_VERSION_1 | F_MERGEABLE) != 0 {
            12
        } else {
            10
        }
    }

    fn obey_orders(&mut self) {
        let orders = self.orders.lock().map(|mut orders| std::mem::take(&mut *orders)).unwrap_or_default();
        for value in &orders.rx {
            self.rx_limiter.update(value);
            self.rx_at = None;
        }
        for value in &orders.tx {
            self.tx_limiter.update(value);
            self.tx_at = None;
        }
        if orders.metadata.is_some() {
            self.metadata = orders.metadata;
        }
        if let Some(metadata) = &mut self.metadata {
            for (connection, bytes, is_last) in &orders.answers {
                metadata.answer(*connection, bytes, *is_last);
            }
        }
    }

    /// Guest to host. @returns whether the budget ended it
    fn transmit(&mut self, rings: &mut Rings) -> bool {
        if self.tx_at.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        self.tx_at = None;
        let header_bytes = Net::header_bytes(rings);
        let mut sent = 0;
        let is_cut_short = loop {
            if sent == BUDGET {
                break true;
            }
            let popped = rings.queues[TX].pop(&rings.memory);
            let Ok(Some(chain)) = popped else {
                if popped.is_ok() && rings.queues[TX].wants_kick() {
                    continue;
                }
                break false;
            };
            let bytes = chain.readable_bytes();
            let mut start = [0u8; 12 + 42];
            let seen = gather(&chain.readable, 0, &mut start[..header_bytes + 42]).saturating_sub(header_bytes);
            let is_ours = self
                .metadata
                .as_ref()
                .is_some_and(|metadata| metadata.is_for_it(&start[header_bytes..header_bytes + seen]));
            if is_ours {
                let mut frame = vec![0u8; (bytes - header_bytes).min(MAX_FRAME)];
                gather(&chain.readable, header_bytes, &mut frame);
                if let Some(metadata) = &mut self.metadata {
                    metadata.frame_came(frame);
                }
            } else if bytes > header_bytes {
                if let Err(at) = self.tx_limiter.admit((bytes - header_bytes) as u64) {
                    self.tx_at = Some(at);
                    self.counters.add("tx_rate_limiter_throttled", 1);
                    rings.queues[TX].unpop(1);
                    break false;
                }
                let vectors = io_vectors(&chain.readable, 0, usize::MAX);
                let count = vectors.len().min(1024) as libc::c_int;
                // A tap that is down or full loses the frame, as a network does.
                if unsafe { libc::writev(self.tap.raw(), vectors.as_ptr(), count) } < 0 {
                    self.counters.add("tap_write_fails", 1);
                } else {
                    self.counters.add("tx_bytes_count", (bytes - header_bytes) as u64);
                    self.counters.add("tx_packets_count", 1);
                }
            }
            rings.queues[TX].push(chain.head, 0);
            sent += 1;
        };
        if sent > 0 {
            self.counters.add("tx_count", 1);
            rings.queues[TX].signal();
        }
        is_cut_short
    }

    /// Puts a frame into the guest's buffers. @returns whether there was room
    fn deliver(&self, rings: &mut Rings, frame: &[u8], header_bytes: usize) -> bool {
        let is_mergeable = rings.features & F_MERGEABLE != 0;
        let mut chains = Vec::new();
        let mut room = 0;
        while room < frame.len() {
            let limit = if is_mergeable { MAX_BUFFERS } else { 1 };
            if chains.len() == limit {
                // It can never fit: it is lost, and the buffers stay the guest's.
                rings.queues[RX].unpop(chains.len() as u16);
                self.counters.add("rx_fails", 1);
                return true;
            }
            let popped = rings.queues[RX].pop(&rings.memory);
            let Ok(Some(chain)) = popped else {
                rings.queues[RX].unpop(chains.len() as u16);
                if popped.is_ok() && rings.queues[RX].wants_kick() && chains.is_empty() {
                    continue;
                }
                return false;
            };
            room += chain.writable_bytes();
            chains.push(chain);
        }
        let mut done = 0;
        for (index, chain) in chains.iter().enumerate() {
            let count = scatter(&chain.writable, 0, &frame[done..]);
            if index == 0 && header_bytes == 12 {
                scatter(&chain.writable, NUM_BUFFERS, &(chains.len() as u16).to_le_bytes());
            }
            done += count;
            rings.queues[RX].push(chain.head, count as u32);
        }
        true
    }

    /// Host to guest. @returns whether the budget ended it
    fn receive(&mut self, rings: &mut Rings) -> bool {
        let header_bytes = Net::header_bytes(rings);
        let mut delivered = 0;
        let mut lacks_room = false;
        // The metadata service first: it is never held back.
        while let Some(frame) = self.metadata.as_mut().and_then(Metadata::next_frame) {
            let mut whole = vec![0u8; header_bytes];
            whole.extend_from_slice(&frame);
            if !self.deliver(rings, &whole, header_bytes) {
                if let Some(metadata) = &mut self.metadata {
                    metadata.put_back(frame);
                }
                lacks_room = true;
                break;
            }
            delivered += 1;
        }
        let mut has_drained = false;
        while !lacks_room && self.rx_at.is_none_or(|at| at <= Instant::now()) && delivered < BUDGET {
            self.rx_at = None;
            if self.held.is_empty() {
                let count = unsafe { libc::read(self.tap.raw(), self.buffer.as_mut_ptr().cast(), self.buffer.len()) };
                if count <= header_bytes as isize {
                    has_drained = true;
                    if count < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock {
                        self.counters.add("tap_read_fails", 1);
                    }
                    break;
                }
                self.held.extend_from_slice(&self.buffer[..count as usize]);
            }
            let bytes = (self.held.len() - header_bytes) as u64;
            if let Err(at) = self.rx_limiter.admit(bytes) {
                self.rx_at = Some(at);
                self.counters.add("rx_rate_limiter_throttled", 1);
                break;
            }
            let held = std::mem::take(&mut self.held);
            if !self.deliver(rings, &held, header_bytes) {
                self.held = held;
                break;
            }
            delivered += 1;
            self.counters.add("rx_bytes_count", bytes);
            self.counters.add("rx_packets_count", 1);
            self.held = held;
            self.held.clear();
        }
        if delivered > 0 {
            self.counters.add("rx_count", 1);
            rings.queues[RX].signal();
        }
        self.watch_tap(rings, has_drained);
        delivered >= BUDGET
    }

    /// The tap is waited for only when it was empty: otherwise a ring's kick or a deadline comes first.
    fn watch_tap(&mut self, rings: &Rings, is_wanted: bool) {
        if is_wanted == self.is_watching_tap {
            return;
        }
        if is_wanted {
            self.is_watching_tap = rings.poll.watch(self.tap.raw(), TOKEN_TAP, libc::EPOLLIN as u32).is_ok();
        } else {
            rings.poll.forget(self.tap.raw());
            self.is_watching_tap = false;
        }
    }
}

impl Device for Net {
    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_count(&self) -> usize {
        2
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn handle(&mut self, rings: &mut Rings, event: Event) {
        match event {
            Event::Stopped => return self.watch_tap(rings, false),
            Event::Started => {
                // Refused by a tap that is gone; then nothing arrives.
                let _ = self.tap.configure(rings.features, Net::header_bytes(rings));
            }
            Event::Ready { token: TOKEN_WAKE, .. } => self.obey_orders(),
            _ => {}
        }
        loop {
            let mut is_cut_short = false;
            if rings.queues[TX].is_running() {
                is_cut_short |= self.transmit(rings);
            }
            if let Some(metadata) = &mut self.metadata {
                metadata.run();
            }
            if rings.queues[RX].is_running() {
                is_cut_short |= self.receive(rings);
            }
            if !is_cut_short {
                return;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let metadata = self.metadata.as_ref().and_then(Metadata::deadline);
        [self.rx_at, self.tx_at, metadata].into_iter().flatten().min()
    }
}
