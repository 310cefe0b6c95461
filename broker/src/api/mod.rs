//! The edge: who calls, what of it is well-formed, and how answers and errors look on the wire.
//!
//! - [`listen`]: sockets, and the limits of a connection;
//! - [`tls`]: certificates that can change while the broker runs;
//! - [`admission`]: whether there is room for new work;
//! - [`auth`]: who calls;
//! - [`grpc`]: the services of `countersign.v1`; `grpc/status.rs` alone makes a status;
//! - [`http`]: metrics, for Prometheus.

pub mod admission;
pub mod auth;
mod gather;
pub mod grpc;
pub mod http;
pub mod listen;
pub mod tls;
