//! The log as operators read it: `Administration.ReadLog`.

use std::collections::HashMap;

use countersign_proto::{
    event::v1::EventType,
    v1::{self, LogEntry},
};
use countersign_tests::{Broker, Result};

/// Everything that the log holds, after it was checked.
#[derive(Debug)]
pub(crate) struct Ledger(Vec<LogEntry>);

impl Ledger {
    /// Reads the whole log, and checks what holds for every log: positions are dense, every entry names the one before
    /// it in its stream, and every event is of a type that this release knows.
    pub(crate) async fn read(broker: &Broker) -> Result<Self> {
        let mut entries =
            broker.administration().await?.read_log(v1::ReadLogRequest::default()).await?.into_inner();
        let mut ledger = Vec::new();
        let mut heads: HashMap<String, u64> = HashMap::new();
        while let Some(entry) = entries.message().await? {
            anyhow::ensure!(
                entry.position == ledger.len() as u64 + 1,
                "a gap before position {}",
                entry.position
            );
            let before = heads.insert(entry.stream.clone(), entry.position).unwrap_or(0);
            anyhow::ensure!(entry.previous == before, "position {} names {}", entry.position, entry.previous);
            ledger.push(entry);
        }
        Ok(Self(ledger))
    }

    /// How many entries hold decisions: all but those that say how pushes fare, which come when they come.
    pub(crate) fn decisions(&self) -> usize {
        self.0.iter().filter(|entry| !entry.stream.starts_with("delivery/")).count()
    }

    /// How many events of this type there are.
    pub(crate) fn count(&self, kind: EventType) -> usize {
        self.kinds().filter(|found| *found == number(kind)).count()
    }

    /// The types of the events of streams of accounts, in their order.
    pub(crate) fn of_accounts(&self) -> Vec<EventType> {
        let entries = self.0.iter().filter(|entry| entry.stream.starts_with("account/"));
        let kinds = entries.flat_map(|entry| &entry.events).map(|event| event.kind);
        kinds
            .map(|kind| i32::try_from(kind).ok().and_then(|kind| kind.try_into().ok()).unwrap_or_default())
            .collect()
    }

    /// The streams of accounts, in the order in which they were opened.
    pub(crate) fn accounts(&self) -> Vec<&str> {
        let opened = |entry: &&LogEntry| {
            entry.events.iter().any(|event| event.kind == number(EventType::AccountOpened))
        };
        self.0.iter().filter(opened).map(|entry| entry.stream.as_str()).collect()
    }

    fn kinds(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|entry| &entry.events).map(|event| event.kind)
    }
}

fn number(kind: EventType) -> u32 {
    u32::try_from(i32::from(kind)).expect("type numbers are positive")
}
