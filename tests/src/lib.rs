//! What the end-to-end tests share: the broker's program as a process ([`process`]), and a small world round it
//! ([`world`]) of push services, phones and a login server, all of which come from `device-sim`.

pub mod process;
pub mod programs;
pub mod world;

pub use process::Broker;
pub use world::World;

/// Anything that goes wrong in a test ends it: what matters is that it says what.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;
