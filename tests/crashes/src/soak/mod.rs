//! A soak: a real broker under load for a long time, on a disk that is full and fails, and is well again. It is to serve
//! as well at the end as at the beginning, and to need no more for it.
//!
//! In the order of a run: [`schedule`] (what is wrong with the disk, and when, from a seed) → [`run`](mod@run) (the
//! load, the faults, whoever starts the broker again, and a look at its process each second) → [`seen`] (all that was
//! seen) → [`flat`] (the rule by which something has grown) → [`report`] and [`plot`].

pub mod flat;
pub mod plot;
pub mod report;
pub mod run;
pub mod schedule;
pub mod seen;

pub use report::Report;
pub use run::{Order, run};
