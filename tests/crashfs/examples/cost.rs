//! What the file system costs: one 4 KiB write and an fdatasync, one by one and from several threads.
//!
//! `cargo run --release -p crashfs --example cost`
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock, and nothing depends on it")]

use std::{fs::File, io::Write, os::unix::fs::FileExt, path::Path, time::Instant};

use crashfs::{CrashFs, Options};

const ROUNDS: u32 = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("crashfs-cost-{}", std::process::id()));
    let fs = CrashFs::mount(&dir, Options::default())?;
    let page = [1_u8; 4096];

    let mut file = File::create_new(dir.join("appended"))?;
    measure("write", ROUNDS, || file.write_all(&page))?;
    measure("fdatasync", ROUNDS, || file.sync_data())?;
    measure("write + fdatasync", ROUNDS, || file.write_all(&page).and_then(|()| file.sync_data()))?;
    let mut bytes = [0; 4096];
    let file = File::open(dir.join("appended"))?;
    measure("read of 4 KiB", ROUNDS, || file.read_exact_at(&mut bytes, 0))?;
    measure("open + close", ROUNDS, || File::open(dir.join("appended")).map(drop))?;
    let mut file = File::create_new(dir.join("large"))?;
    let large = vec![1; 1 << 20];
    measure("write of 1 MiB", 200, || file.write_all(&large))?;

    let started = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                scope.spawn({
                    let dir = &dir;
                    move || append(&dir.join(format!("parallel-{writer}")))
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })?;
    println!("{:>22}: {:?} each", "4 threads, each", started.elapsed() / ROUNDS);
    drop(fs);
    std::fs::remove_dir(&dir)?;
    Ok(())
}

fn append(path: &Path) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    (0..ROUNDS).try_for_each(|_| file.write_all(&[1; 4096]).and_then(|()| file.sync_data()))
}

fn measure(what: &str, rounds: u32, mut act: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    let started = Instant::now();
    (0..rounds).try_for_each(|_| act())?;
    println!("{what:>22}: {:?} each", started.elapsed() / rounds);
    Ok(())
}
