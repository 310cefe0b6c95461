//! The broker on a file system that forgets ([`crashfs`]): under load, ended at moments that are counted by what was
//! going on, and started again. What the clients of the load were told is kept outside the broker ([`ledger`]) and then
//! compared with the log.
//!
//! - [`stage`]: broker, push services, accounts with a phone each, all on the crash file system;
//! - [`load`]: logins and phones that go on through it all; [`newcomer`]: accounts that begin meanwhile;
//! - [`moment`]: where a round ends the broker; [`tally`]: how often it came to that;
//! - [`ledger`]: what was told, and whether the log agrees.
//!
//! And [`soak`]: the same broker on the same disk for a long time, in which it is to grow no slower and no larger.

pub mod ledger;
pub mod load;
pub mod moment;
pub mod newcomer;
pub mod soak;
pub mod stage;
pub mod tally;

pub use ledger::{Fact, Ledger};
pub use stage::Stage;
pub use tally::Tally;
