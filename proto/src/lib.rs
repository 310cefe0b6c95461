//! The public interface of Countersign ([`v1`]) and what it keeps on disk ([`event`]), as generated from the
//! .proto files beside this crate. The .proto files are the reference; the documentation here is theirs.

pub mod codec;
mod redacted;

/// `countersign.v1`: what login servers, phones, enrolling pages and operators call.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated; every message is documented in its .proto file"
)]
pub mod v1 {
    tonic::include_proto!("countersign.v1");

    /// The file descriptors of this package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/countersign.v1.bin"));
}

/// `countersign.event.v1`: the bodies of events, as they are on disk.
pub mod event {
    /// Version 1. Additive only.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        reason = "generated; every message is documented in its .proto file"
    )]
    pub mod v1 {
        tonic::include_proto!("countersign.event.v1");

        /// The file descriptors of this package, to show stored events by.
        pub const FILE_DESCRIPTOR_SET: &[u8] =
            include_bytes!(concat!(env!("OUT_DIR"), "/countersign.event.v1.bin"));
    }
}
