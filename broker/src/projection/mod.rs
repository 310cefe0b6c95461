//! Read models: folded from the log, rebuildable from it, never deciding.
//!
//! - [`board`]: who waits for what, and what happened to it so far;
//! - [`index`]: what is live, and how to find it by something else than its id;
//! - [`places`]: how many of that there may be;
//! - [`follower`]: the one task that follows the log and tells the others;
//! - `said`: and what it tells whoever runs the broker.

pub mod board;
pub mod follower;
pub mod index;
pub mod places;
mod said;

pub use board::Board;
pub use follower::Follower;
pub use index::Index;
pub use places::Places;
