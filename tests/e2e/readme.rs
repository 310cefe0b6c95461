//! What README tells an operator to type, typed as it stands: into a shell, one line after the other.

use std::{env, ffi::OsString, fs, path::Path, process::Stdio, time::Duration};

use countersign_tests::{Result, process::free_port, programs, world::PATIENCE};
use device_sim::{
    login::{ApiKey, EnrollingPage, LoginServer, SignIn},
    wire::Transport,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{ChildStdin, ChildStdout, Command},
};

use crate::support::refusal;

/// The first block of shell commands under this heading.
fn commands(heading: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
    let text = fs::read_to_string(file).unwrap();
    let (_, section) = text.split_once(heading).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// A shell that stops at the first command that fails.
struct Shell {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    async fn run(&mut self, line: &str) -> Result<()> {
        Ok(self.stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }

    async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.stdout.next_line()).await??;
        line.ok_or_else(|| anyhow::anyhow!("the shell ended: a command has failed"))
    }

    async fn line_with(&mut self, wanted: &str) -> Result<String> {
        loop {
            let line = self.line().await?;
            if line.contains(wanted) {
                return Ok(line);
            }
        }
    }
}

#[tokio::test]
async fn a_login_server_is_connected_by_the_commands_of_readme_as_they_stand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (home, port) = (folder.path().join("countersign"), free_port()?);
    let mut path = OsString::from(programs::countersign().parent().unwrap());
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut child = Command::new("sh")
        .arg("-e")
        .current_dir(folder.path())
        .env("PATH", path)
        // The default port may be another test's, or another broker's.
        .env("COUNTERSIGN__SERVER__LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut shell = Shell {
        stdin: child.stdin.take().unwrap(),
        stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
    };
    let mut id = None;
    for line in commands("## Connect a login server").lines() {
        let mut line = line.replace("/etc/countersign", home.to_str().unwrap());
        if let Some(id) = &id {
            line = line.replace(" ID ", &format!(" {id} "));
        }
        shell.run(&line).await?;
        if line.contains("countersign serve ") {
            // Whatever happens from here on, nothing stays behind.
            shell.run("broker=$!; trap 'kill $broker; wait $broker' EXIT").await?;
            shell.line_with("countersign serves ").await?;
        } else if line.contains("relying-party register") {
            shell.run("echo registered").await?;
            let (registered, end) = (shell.line().await?, shell.line().await?);
            assert_eq!(end, "registered", "nothing but the id is printed");
            id = Some(registered);
        }
    }
    shell.run("echo all done").await?;
    shell.line_with("all done").await?;

    let transport = Transport::to(format!("http://127.0.0.1:{port}")).open()?;
    let key = |name: &str| ApiKey::from_file(&folder.path().join(name));
    let page = EnrollingPage::new(&transport, Some(key("enrolment.key")?));
    page.begin("alice").await?;
    let login = LoginServer::new(&transport, Some(key("sign-in.key")?));
    // Known, but without a phone.
    let asked = refusal(login.open(&SignIn::new("bob", "Webmail")).await);
    assert_eq!(asked.reason(), Some("ACCOUNT_NOT_FOUND"), "{asked:?}");

    drop(shell);
    let ended = tokio::time::timeout(PATIENCE + Duration::from_secs(10), child.wait()).await??;
    assert!(ended.success(), "{ended}");
    Ok(())
}
