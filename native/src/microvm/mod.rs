//! The half of a QEMU microVM that QEMU leaves to others: vsock and network devices by vhost-user, the guest's memory, files for a
//! confined QEMU.
pub mod confine;
pub mod control;
mod counters;
mod files;
mod memory;
mod metadata;
mod net;
mod queue;
mod serial;
mod sockets;
mod tap;
mod token_bucket;
mod vhost_user;
mod vsock;
mod vsock_connection;
mod vsock_packet;
