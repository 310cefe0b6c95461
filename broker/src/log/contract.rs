//! The contract of [`EventLog`], as tests that every log passes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{Future, join_all, poll_immediate};

use super::*;

/// A log under test.
trait Subject: Sized {
    /// An empty one.
    fn new() -> impl Future<Output = Self>;
    fn log(&self) -> Arc<dyn EventLog>;
    /// The machine stops at this moment, and starts again.
    fn crash(self) -> impl Future<Output = Self>;
    /// The log is closed and opened.
    fn restart(self) -> impl Future<Output = Self>;
}

struct Memory(MemoryLog);

impl Subject for Memory {
    async fn new() -> Self {
        Self(MemoryLog::new())
    }

    fn log(&self) -> Arc<dyn EventLog> {
        Arc::new(self.0.clone())
    }

    async fn crash(self) -> Self {
        Self(self.0.crash(Crash::Forgets))
    }

    async fn restart(self) -> Self {
        self.0.close().await;
        Self(self.0.crash(Crash::Forgets))
    }
}

struct Local {
    folder: tempfile::TempDir,
    log: Arc<LocalLog>,
}

impl Local {
    /// So small that whatever the tests read comes from everywhere.
    async fn open(folder: tempfile::TempDir) -> Self {
        let config = LogConfig {
            segment_bytes: 8 * 1024,
            recent_bytes_max: 16 * 1024,
            ..LogConfig::new(folder.path())
        };
        let log =
            tokio::task::spawn_blocking(move || LocalLog::open(&config, [1; 16])).await.unwrap().unwrap();
        Self { folder, log: Arc::new(log) }
    }
}

impl Subject for Local {
    async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as Arc<dyn EventLog>
    }

    /// The files as they are at this moment, while the log works, are what a killed process leaves.
    async fn crash(self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The journal last: it is always ahead of what is made from it.
        for name in ["store", "snapshots", "folds", "journal"] {
            let from = self.folder.path().join(name);
            // Without folds there is no folder for them.
            if from.exists() {
                copy_folder(&from, &folder.path().join(name));
            }
        }
        Self::open(folder).await
    }

    async fn restart(self) -> Self {
        self.log.close().await;
        Self::open(self.folder).await
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else if let Err(error) = std::fs::copy(&path, &copy) {
            // sled removes files of its own while we look.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

macro_rules! every_log_keeps {
    ($($test:ident,)*) => {
        mod memory {
            $(#[tokio::test(flavor = "current_thread")] async fn $test() { super::$test::<super::Memory>().await })*
        }
        mod local {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test::<super::Local>().await })*
        }
    };
}

every_log_keeps! {
    an_empty_log_has_nothing_to_read,
    what_was_appended_reads_back_the_same,
    positions_are_dense_and_in_the_order_of_appends,
    an_append_that_expects_something_else_conflicts_and_leaves_nothing,
    of_appends_that_expect_the_same_one_wins_and_the_others_see_it,
    streams_keep_apart,
    reading_after_a_version_gives_what_came_after_it,
    reading_back_begins_with_the_newest,
    reading_all_ends_where_the_log_ended_at_the_call,
    a_follower_sees_every_entry_once_and_in_order_while_many_append,
    a_follower_may_begin_beyond_the_head,
    what_a_follower_was_given_every_read_sees,
    what_is_too_large_or_empty_is_refused_and_leaves_nothing,
    dropping_the_future_does_not_take_the_append_back,
    an_append_that_rides_along_needs_no_company,
    appending_nothing_waits_and_leaves_nothing,
    a_crash_takes_nothing_that_was_acknowledged,
    a_restart_goes_on_where_the_log_was,
    cursors_and_snapshots_read_back,
    no_cursor_and_no_snapshot_is_ahead_of_the_log,
    a_fold_reads_back_as_it_was_kept_last,
    no_fold_is_ahead_of_its_stream,
    a_closed_log_takes_nothing_and_tells_everyone,
}

fn stream(number: u8) -> StreamId {
    StreamId::new(StreamKind::ALL[usize::from(number) % 4], [number; 16])
}

fn event(number: u64) -> EventRecord {
    EventRecord {
        kind: u32::try_from(number).unwrap(),
        version: 2,
        may_ignore: number.is_multiple_of(2),
        body: Bytes::copy_from_slice(&number.to_be_bytes()),
        sealed: Bytes::from(vec![7; usize::try_from(number % 50).unwrap()]),
    }
}

fn append(number: u8, expected: Expected, first_event: u64) -> Append {
    let events = vec![event(first_event), event(first_event + 1)];
    Append { stream: stream(number), expected, urgency: Urgency::Now, recorded_at_ms: first_event, events }
}

async fn append_many(log: &Arc<dyn EventLog>, count: u64) {
    let appends = (0..count).map(|number| log.append(append((number % 7) as u8, Expected::Any, number)));
    for appended in join_all(appends).await {
        appended.unwrap();
    }
}

async fn all(log: &Arc<dyn EventLog>) -> Vec<Arc<Entry>> {
    log.read_all(Position::FIRST).map(Result::unwrap).collect().await
}

async fn an_empty_log_has_nothing_to_read<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    assert_eq!(log.head(), None);
    assert_eq!(log.version(stream(1)).await, Ok(None));
    assert_eq!(log.read(stream(1), None).await, Ok(Vec::new()));
    assert_eq!(log.entry(Position::FIRST).await, Ok(None));
    assert_eq!(all(&log).await, Vec::new());
    assert!(log.read_back(stream(1)).next().await.is_none());
}

async fn what_was_appended_reads_back_the_same<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let sent = append(1, Expected::Empty, 10);
    let appended = log.append(sent.clone()).await.unwrap();
    assert_eq!(log.head(), Some(appended.position));
    assert_eq!(log.version(stream(1)).await, Ok(Some(appended.version)));
    let read = log.read(stream(1), None).await.unwrap();
    let expected = Entry {
        position: Position::FIRST,
        stream: stream(1),
        version: appended.version,
        previous: None,
        recorded_at_ms: 10,
        events: sent.events,
    };
    assert_eq!(read, [Arc::new(expected)]);
    assert_eq!(log.entry(Position::FIRST).await.unwrap().as_ref(), read.first());
    assert_eq!(all(&log).await, read);
}

async fn positions_are_dense_and_in_the_order_of_appends<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    for number in 1..=300 {
        let appended = log.append(append(1, Expected::Any, number)).await.unwrap();
        assert_eq!(appended.position.number(), number);
    }
    append_many(&log, 300).await;
    let entries = all(&log).await;
    let mut heads = BTreeMap::new();
    for (entry, number) in entries.iter().zip(1..) {
        assert_eq!(entry.position.number(), number);
        assert_eq!(entry.previous, heads.insert(entry.stream, entry.position));
    }
    assert_eq!(entries.len(), 600);
}

async fn an_append_that_expects_something_else_conflicts_and_leaves_nothing<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let version = log.append(append(2, Expected::Any, 1)).await.unwrap().version;
    let other = Version::from_token(version.to_token() + 1);
    for expected in [Expected::Empty, Expected::At(other)] {
        let refused = log.append(append(2, expected, 2)).await;
        assert_eq!(refused, Err(AppendError::Conflict { current: Some(version) }));
    }
    let refused = log.append(append(1, Expected::At(version), 2)).await;
    assert_eq!(refused, Err(AppendError::Conflict { current: None }));
    log.append(append(2, Expected::At(version), 2)).await.unwrap();
    assert_eq!(log.head(), Position::new(2));
}

async fn of_appends_that_expect_the_same_one_wins_and_the_others_see_it<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let mut expected = Expected::Empty;
    for round in 0..30 {
        let contenders = (0..20).map(|contender| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                match log.append(append(3, expected, round * 100 + contender)).await {
                    Ok(appended) => Some(appended.version),
                    Err(AppendError::Conflict { current }) => {
                        // What it conflicts with is there already.
                        assert_eq!(log.version(stream(3)).await.unwrap(), current);
                        let seen = log.read(stream(3), None).await.unwrap();
                        assert_eq!(seen.last().map(|entry| entry.version), current);
                        None
                    }
                    Err(other) => panic!("{other}"),
                }
            })
        });
        let won: Vec<_> = join_all(contenders).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(won.len(), 1, "round {round}");
        expected = Expected::At(won[0]);
    }
    assert_eq!(log.head(), Position::new(30));
}

async fn streams_keep_apart<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 700).await;
    for number in 0..7 {
        let entries = log.read(stream(number), None).await.unwrap();
        assert!(entries.iter().all(|entry| entry.stream == stream(number)));
        assert_eq!(entries.len(), 100);
        assert!(entries.is_sorted_by_key(|entry| entry.position));
        assert_eq!(entries.last().map(|last| last.version), log.version(stream(number)).await.unwrap());
    }
    // The same id in another kind is another stream.
    let sibling = StreamId::new(StreamKind::Delivery, stream(0).id());
    assert_eq!(log.read(sibling, None).await.unwrap(), Vec::new());
}

async fn reading_after_a_version_gives_what_came_after_it<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 200).await;
    let entries = log.read(stream(1), None).await.unwrap();
    for (index, entry) in entries.iter().enumerate() {
        let after = log.read(stream(1), Some(entry.version)).await.unwrap();
        assert_eq!(after, entries[index + 1..]);
    }
}

async fn reading_back_begins_with_the_newest<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 200).await;
    let mut back: Vec<_> = log.read_back(stream(1)).map(Result::unwrap).collect().await;
    back.reverse();
    assert_eq!(back, log.read(stream(1), None).await.unwrap());
}

async fn reading_all_ends_where_the_log_ended_at_the_call<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 150).await;
    let reading = log.read_all(Position::new(11).unwrap());
    append_many(&log, 50).await;
    let read: Vec<_> = reading.map(|entry| entry.unwrap().position.number()).collect().await;
    assert_eq!(read, (11..=150).collect::<Vec<_>>());
    assert!(log.read_all(Position::new(201).unwrap()).next().await.is_none());
}

async fn a_follower_sees_every_entry_once_and_in_order_while_many_append<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 100).await;
    let followers: Vec<_> = [1, 50, 101, 300]
        .map(|from| {
            let follower = log.follow(Position::new(from).unwrap());
            tokio::spawn(async move {
                let entries = follower.take_while(|entry| {
                    let last = entry.as_ref().unwrap().position.number() == 1000;
                    std::future::ready(!last)
                });
                let seen: Vec<_> = entries.map(|entry| entry.unwrap().position.number()).collect().await;
                assert_eq!(seen, (from..1000).collect::<Vec<_>>());
            })
        })
        .into_iter()
        .collect();
    let appenders = (0..9).map(|_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for _ in 0..10 {
                append_many(&log, 10).await;
            }
        })
    });
    for ended in join_all(appenders.chain(followers).collect::<Vec<_>>()).await {
        ended.unwrap();
    }
}

async fn what_a_follower_was_given_every_read_sees<S: Subject>() {
    const STREAMS: u8 = 250;
    const ROUNDS: u64 = 60;
    let subject = S::new().await;
    let log = subject.log();
    let told = tokio::spawn({
        let (log, mut entries) = (Arc::clone(&log), log.follow(Position::FIRST));
        async move {
            let mut before = BTreeMap::new();
            for _ in 0..u64::from(STREAMS) * ROUNDS {
                let entry = entries.next().await.unwrap().unwrap();
                let version = log.version(entry.stream).await.unwrap();
                assert_ne!(
                    version,
                    before.insert(entry.stream, entry.version),
                    "{entry:?} is not in its stream"
                );
            }
        }
    });
    for round in 0..ROUNDS {
        let appends = (0..STREAMS).map(|number| log.append(append(number, Expected::Any, round)));
        for appended in join_all(appends).await {
            appended.unwrap();
        }
    }
    told.await.unwrap();
}

async fn a_follower_may_begin_beyond_the_head<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let mut follower = log.follow(Position::new(3).unwrap());
    append_many(&log, 3).await;
    assert_eq!(follower.next().await.unwrap().unwrap().position.number(), 3);
}

async fn what_is_too_large_or_empty_is_refused_and_leaves_nothing<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let with = |events| Append { events, ..append(1, Expected::Any, 1) };
    let large = |bytes| EventRecord { body: Bytes::from(vec![0; bytes]), sealed: Bytes::new(), ..event(1) };
    assert_eq!(log.append(with(vec![])).await, Err(AppendError::NoEvents));
    let many = vec![event(1); EVENTS_PER_ENTRY_MAX + 1];
    assert_eq!(log.append(with(many)).await, Err(AppendError::TooManyEvents { events: 65 }));
    let overhead = with(vec![large(0)]).bytes();
    let bytes = ENTRY_BYTES_MAX + 1;
    let refused = log.append(with(vec![large(bytes - overhead)])).await;
    assert_eq!(refused, Err(AppendError::TooLarge { bytes }));
    assert_eq!(log.head(), None);
    // The largest that is not.
    log.append(with(vec![large(ENTRY_BYTES_MAX - overhead)])).await.unwrap();
    log.append(with(vec![large(1); EVENTS_PER_ENTRY_MAX])).await.unwrap();
    assert_eq!(log.head(), Position::new(2));
}

async fn dropping_the_future_does_not_take_the_append_back<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let mut follower = log.follow(Position::FIRST);
    // Polled once, it is on its way.
    let _ = poll_immediate(log.append(append(1, Expected::Any, 5))).await;
    assert_eq!(follower.next().await.unwrap().unwrap().recorded_at_ms, 5);
}

async fn an_append_that_rides_along_needs_no_company<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let riding = Append { urgency: Urgency::Rides, ..append(1, Expected::Any, 1) };
    let alone = log.append(riding.clone()).await.unwrap();
    assert_eq!(alone.position, Position::FIRST);
    let (riding, driving) = tokio::join!(log.append(riding), log.append(append(2, Expected::Any, 1)));
    assert_eq!((riding.unwrap().position.number(), driving.unwrap().position.number()), (2, 3));
}

async fn a_crash_takes_nothing_that_was_acknowledged<S: Subject>() {
    let mut subject = S::new().await;
    let mut known = Vec::new();
    for round in 0..4 {
        let log = subject.log();
        append_many(&log, 60).await;
        let appenders: Vec<_> = (0..4)
            .map(|_| {
                let log = Arc::clone(&log);
                tokio::spawn(async move { while log.append(append(9, Expected::Any, 1)).await.is_ok() {} })
            })
            .collect();
        append_many(&log, 60).await;
        let before = all(&log).await;
        assert_eq!(before[..known.len()], known, "round {round}");
        subject = subject.crash().await;
        appenders.iter().for_each(tokio::task::JoinHandle::abort);
        known = all(&subject.log()).await;
        assert_eq!(known[..before.len()], before, "round {round}");
    }
}

async fn a_restart_goes_on_where_the_log_was<S: Subject>() {
    let mut subject = S::new().await;
    let mut known = Vec::new();
    for _ in 0..4 {
        append_many(&subject.log(), 90).await;
        let before = all(&subject.log()).await;
        assert_eq!(before[..known.len()], known);
        let version = subject.log().version(stream(1)).await.unwrap();
        subject = subject.restart().await;
        known = all(&subject.log()).await;
        assert_eq!(known, before);
        assert_eq!(subject.log().version(stream(1)).await.unwrap(), version);
        let expected = Expected::At(version.unwrap());
        subject.log().append(append(1, expected, 1)).await.unwrap();
        known = all(&subject.log()).await;
    }
}

async fn cursors_and_snapshots_read_back<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 3).await;
    let (first, last) = (Position::FIRST, Position::new(3).unwrap());
    assert_eq!(log.cursor("dispatch").await, None);
    assert_eq!(log.snapshot("waiting").await, None);
    for position in [first, last] {
        log.save_cursor("dispatch", position).await;
        log.save_snapshot("waiting", position, Bytes::from_static(b"a model")).await;
        assert_eq!(log.cursor("dispatch").await, Some(position));
        assert_eq!(log.snapshot("waiting").await, Some((position, Bytes::from_static(b"a model"))));
    }
    assert_eq!(log.cursor("another").await, None);
    assert_eq!(log.snapshot("another").await, None);
    let subject = subject.restart().await;
    let log = subject.log();
    assert_eq!(log.cursor("dispatch").await, Some(last));
    assert_eq!(log.snapshot("waiting").await, Some((last, Bytes::from_static(b"a model"))));
}

async fn no_cursor_and_no_snapshot_is_ahead_of_the_log<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 3).await;
    let beyond = Position::new(4).unwrap();
    log.save_cursor("dispatch", beyond).await;
    log.save_snapshot("waiting", beyond, Bytes::new()).await;
    assert_eq!(log.cursor("dispatch").await, None);
    assert_eq!(log.snapshot("waiting").await, None);
}

/// The fold of a stream once it is kept, which is some time later.
async fn kept_fold(log: &dyn EventLog, stream: StreamId, version: Version) -> Bytes {
    let kept = async {
        loop {
            match log.fold(stream).await {
                Some((kept, bytes)) if kept == version => return bytes,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.unwrap()
}

async fn a_fold_reads_back_as_it_was_kept_last<S: Subject>() {
    let mut subject = S::new().await;
    let log = subject.log();
    let mut versions = Vec::new();
    for number in [1, 1, 2] {
        versions.push(log.append(append(number, Expected::Any, 1)).await.unwrap().version);
    }
    assert_eq!(log.fold(stream(1)).await, None);
    for (number, version) in [1, 1, 2].into_iter().zip(&versions) {
        let bytes = Bytes::from(vec![number; 100]);
        log.keep_fold(stream(number), *version, bytes.clone());
        assert_eq!(kept_fold(&*log, stream(number), *version).await, bytes);
    }
    assert_eq!(log.fold(stream(3)).await, None);
    drop(log);
    for crashes in [true, false, true] {
        subject = if crashes { subject.crash().await } else { subject.restart().await };
        let log = subject.log();
        assert_eq!(log.fold(stream(1)).await, Some((versions[1], Bytes::from(vec![1; 100]))));
        assert_eq!(log.fold(stream(2)).await, Some((versions[2], Bytes::from(vec![2; 100]))));
    }
}

async fn no_fold_is_ahead_of_its_stream<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let version = log.append(append(1, Expected::Any, 1)).await.unwrap().version;
    let ahead = Version::from_token(version.to_token() + 1);
    log.keep_fold(stream(1), ahead, Bytes::from_static(b"ahead"));
    log.keep_fold(stream(2), version, Bytes::from_static(b"of nothing"));
    log.append(append(3, Expected::Any, 1)).await.unwrap();
    let there = log.version(stream(3)).await.unwrap().unwrap();
    log.keep_fold(stream(3), there, Bytes::from_static(b"there"));
    // What was to be kept before it has been looked at by then.
    kept_fold(&*log, stream(3), there).await;
    assert_eq!(log.fold(stream(1)).await, None);
    assert_eq!(log.fold(stream(2)).await, None);
}

async fn appending_nothing_waits_and_leaves_nothing<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    append_many(&log, 3).await;
    let head = log.head();
    let mut nothing = log.append_nothing();
    assert!(poll_immediate(&mut nothing).await.is_none(), "it did not wait");
    nothing.await.unwrap();
    // What comes behind it, and in its company, is as it would have been.
    append_many(&log, 1).await;
    let (appended, nothing) = tokio::join!(log.append(append(1, Expected::Any, 1)), log.append_nothing());
    nothing.unwrap();
    assert_eq!(Some(appended.unwrap().position), head.map(|head| head.next().next()));
    drop(log);
    let log = subject.restart().await.log();
    assert_eq!(all(&log).await.len(), 5);
    log.close().await;
    assert_eq!(log.append_nothing().await, Err(AppendError::Stopped(Fault::Closed)));
}

async fn a_closed_log_takes_nothing_and_tells_everyone<S: Subject>() {
    let subject = S::new().await;
    let log = subject.log();
    let follower = log.follow(Position::FIRST);
    let stopped = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.stopped().await }
    });
    append_many(&log, 100).await;
    let mut appending = log.append(append(1, Expected::Any, 1));
    let at_once = poll_immediate(&mut appending).await;
    log.close().await;
    log.close().await;
    // What waited is durable.
    let answer = match at_once {
        Some(answer) => answer,
        None => appending.await,
    };
    assert_eq!(answer.unwrap().position.number(), 101);
    assert_eq!(log.append(append(1, Expected::Any, 1)).await, Err(AppendError::Stopped(Fault::Closed)));
    let wait = Duration::from_secs(10);
    assert_eq!(tokio::time::timeout(wait, stopped).await.unwrap().unwrap(), Fault::Closed);
    let followed: Vec<_> = tokio::time::timeout(wait, follower.collect()).await.unwrap();
    assert_eq!(followed.len(), 101);
    assert_eq!(all(&log).await.len(), 101);
}
