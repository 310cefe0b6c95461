//! Who reads, and how many at a time.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use super::super::reading::{READERS_MAX, blocking};
use super::*;

#[tokio::test]
async fn no_more_threads_than_that_read_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    // Each round waits until all who may are at it: one more would be seen by the others.
    let (all, now, most) =
        (Arc::new(Barrier::new(READERS_MAX)), Arc::default(), Arc::<AtomicUsize>::default());
    let reads = (0..4 * READERS_MAX).map(|_| {
        let (all, now, most) = (Arc::clone(&all), Arc::<AtomicUsize>::clone(&now), Arc::clone(&most));
        blocking(log.sources(), move |_| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            all.wait();
            now.fetch_sub(1, Ordering::SeqCst);
        })
    });
    join_all(reads).await;
    assert_eq!(most.load(Ordering::SeqCst), READERS_MAX);
}

#[tokio::test]
async fn what_is_in_memory_is_read_while_all_who_read_the_disk_are_stuck() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    fill(&log, 30).await;
    let stuck = Arc::new(Barrier::new(READERS_MAX + 1));
    let reads = (0..READERS_MAX).map(|_| {
        let stuck = Arc::clone(&stuck);
        blocking(log.sources(), move |_| stuck.wait())
    });
    let memory = async {
        let entries: Vec<_> = log.read_back(stream(7)).map(Result::unwrap).collect().await;
        assert_eq!(entries.iter().map(|entry| entry.recorded_at_ms).collect::<Vec<_>>(), [27, 17, 7]);
        assert_eq!(log.read(stream(7), None).await.unwrap().len(), 3);
        let last = Arc::clone(&stuck);
        tokio::task::spawn_blocking(move || last.wait()).await.unwrap();
    };
    let both = async { tokio::join!(join_all(reads), memory) };
    tokio::time::timeout(std::time::Duration::from_secs(20), both).await.expect("nobody waits for the disk");
}
