//! `countersign demo`: what it tells, and what it leaves behind.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use countersign_tests::{Result, programs, world::PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

/// A demo whose temporary folders are made in a folder of the test.
struct Demo {
    child: Child,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    stderr: ChildStderr,
    said: String,
    temporary: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let mut child = Command::new(programs::countersign())
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = child.stderr.take().unwrap();
        Ok(Self { child, stdout: Some(stdout), stderr, said: String::new(), temporary })
    }

    /// Reads on to the line that holds this; to the end without.
    async fn says(&mut self, wanted: Option<&str>) -> Result<()> {
        let stdout = self.stdout.as_mut().unwrap();
        while let Some(line) = tokio::time::timeout(PATIENCE, stdout.next_line()).await?? {
            self.said += &line;
            self.said.push('\n');
            if wanted.is_some_and(|wanted| line.contains(wanted)) {
                return Ok(());
            }
        }
        anyhow::ensure!(wanted.is_none(), "it ended, and said\n{}", self.said);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id().unwrap())?;
        Ok(kill_process(Pid::from_raw(id).unwrap(), signal)?)
    }

    /// Its status, and what it has said on standard error.
    async fn ended(&mut self) -> Result<(ExitStatus, String)> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).await?;
        Ok((status, said))
    }

    fn leaves_nothing(&self) {
        let left: Vec<_> = fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Where the simulated APNs listens.
    fn push_services(&self) -> SocketAddr {
        let (_, port) = self.said.split_once("APNs https://localhost:").unwrap();
        SocketAddr::from(([127, 0, 0, 1], port.split_once(',').unwrap().0.parse().unwrap()))
    }
}

/// Nobody listens there any more, and soon.
async fn is_gone(address: SocketAddr) {
    let gone = async {
        while TcpStream::connect(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the push services stay behind");
}

#[tokio::test]
async fn the_demo_tells_a_sign_in_in_its_order_and_leaves_nothing() -> Result<()> {
    let mut demo = Demo::start(&["--once"])?;
    demo.says(None).await?;
    let (status, stderr) = demo.ended().await?;
    assert!(status.success(), "{stderr}");
    let story = [
        "enrols Alice's iPhone",
        "enrols Alice's Pixel",
        "alice signs in to Webmail",
        "The login page shows",
        "Alice's iPhone: accepted by APNs, delivered, shown",
        "Alice's Pixel: accepted by FCM",
        "on Alice's iPhone, and approves",
        "The outcome: approved, by a second factor (amr: mca, pop, user, mfa)",
    ];
    let mut rest = demo.said.as_str();
    for part in story {
        let found = rest.split_once(part);
        (_, rest) = found.unwrap_or_else(|| panic!("{part:?} does not come in its turn:\n{}", demo.said));
    }
    demo.leaves_nothing();
    Ok(())
}

#[tokio::test]
async fn a_demo_that_is_told_to_stop_leaves_nothing_however_far_it_is() -> Result<()> {
    for (signal, until) in [
        (Signal::TERM, "alice enrols Alice's iPhone"),
        (Signal::TERM, "--name 'Another phone'"),
        (Signal::INT, "--name 'Another phone'"),
    ] {
        let mut demo = Demo::start(&[])?;
        demo.says(Some(until)).await?;
        demo.signal(signal)?;
        demo.says(None).await?;
        let (status, stderr) = demo.ended().await?;
        assert!(status.success(), "{status}: {stderr}");
        assert!(demo.said.contains("Stopped; the demo's files in "), "{}", demo.said);
        demo.leaves_nothing();
        is_gone(demo.push_services()).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_process() -> Result<()> {
    let mut demo = Demo::start(&[])?;
    demo.says(Some("alice enrols Alice's iPhone")).await?;
    demo.signal(Signal::KILL)?;
    demo.ended().await?;
    is_gone(demo.push_services()).await;
    Ok(())
}

#[tokio::test]
async fn a_demo_that_nobody_reads_ends_without_a_panic() -> Result<()> {
    let mut demo = Demo::start(&["--once"])?;
    demo.says(Some("gRPC on")).await?;
    demo.stdout = None;
    let (status, stderr) = demo.ended().await?;
    assert!(status.success() && !stderr.contains("panicked"), "{status}: {stderr}");
    demo.leaves_nothing();
    is_gone(demo.push_services()).await;
    Ok(())
}

#[tokio::test]
async fn a_folder_that_holds_an_earlier_demo_is_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("demo");
    fs::create_dir_all(dir.join("broker"))?;
    let mut demo = Demo::start(&["--dir", path(&dir)])?;
    demo.says(None).await?;
    let (status, stderr) = demo.ended().await?;
    assert!(!status.success());
    assert!(demo.said.is_empty(), "something was started: {}", demo.said);
    assert!(
        stderr.contains(&format!("{} holds an earlier demo: delete it or name another", dir.display())),
        "{stderr}"
    );
    assert_eq!(fs::read_dir(&dir)?.count(), 1);
    Ok(())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
