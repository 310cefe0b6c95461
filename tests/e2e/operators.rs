//! What the program says to who runs it: what is wrong, where that was said, and what to do.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::{Command, Stdio},
};

use countersign_tests::{Broker, Result, programs::countersign};

use crate::support::set;

/// The line that begins so.
fn line_of(broker: &Broker, start: &str) -> Result<usize> {
    let text = fs::read_to_string(broker.config_file())?;
    Ok(text.lines().position(|line| line.starts_with(start)).unwrap() + 1)
}

#[test]
fn a_check_finds_what_serve_would_fail_at_and_all_of_it_at_once() -> Result<()> {
    let mut broker = Broker::make(
        "[push.apns]\ntopic = \"a.b\"\nkey_id = \"ABC123DEFG\"\nteam_id = \"ABC123DEFG\"\nkey_file = \"none.p8\"\n\
         [push.fcm]\nservice_account_file = \"fcm.json\"\n\
         [server.tls]\ncertificate_file = \"chain.pem\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.pem\"\n",
    )?;
    let home = broker.home();
    fs::write(home.join("fcm.json"), "{}")?;
    fs::write(home.join("chain.pem"), "no certificate")?;
    fs::set_permissions(home.join("keys/nonce-key"), fs::Permissions::from_mode(0o644))?;
    let (status, _, said) = broker.command(&["config", "check"])?;
    assert!(!status.success(), "{said}");
    let apns = line_of(&broker, "key_file = \"none.p8\"")?;
    for part in [
        "nonce-key: its mode is 0644".to_owned(),
        "chmod go-rwx".to_owned(),
        "(keys.folder, line ".to_owned(),
        format!(
            "none.p8: cannot be read: No such file or directory (os error 2) (push.apns.key_file, line {apns})"
        ),
        format!("(push.fcm.service_account_file, line {})", line_of(&broker, "service_account_file")?),
        format!(
            "chain.pem: holds no certificate (server.tls.certificate_file, line {})",
            line_of(&broker, "certificate_file")?
        ),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    assert!(!said.contains("init"), "the keys are there: {said}");
    let (status, again) = broker.start_in_vain()?;
    assert!(!status.success());
    let error = |said: &str| said[said.find("countersign: ").unwrap()..].to_owned();
    assert_eq!(error(&said), error(&again), "serve says the same");
    assert!(!home.join("log").exists(), "and has not touched the log");
    Ok(())
}

#[test]
fn a_missing_key_is_asked_from_the_backup_and_init_is_named_only_where_there_is_no_log() -> Result<()> {
    let mut broker = Broker::make("")?;
    let keys = broker.home().join("keys");
    let apart = broker.home().join("apart");
    fs::rename(&keys, &apart)?;
    let (_, said) = broker.start_in_vain()?;
    assert!(said.contains("keys: is not there") && said.contains("countersign init"), "{said}");
    assert!(!said.contains("os error"), "{said}");
    fs::rename(&apart, &keys)?;
    broker.start()?;
    broker.stop()?;
    fs::remove_file(keys.join("sealing-key"))?;
    let (_, said) = broker.start_in_vain()?;
    assert!(said.contains("sealing-key: is not there: restore it from the backup"), "{said}");
    assert!(!said.contains("init"), "{said}");
    Ok(())
}

#[test]
fn nothing_but_a_socket_is_taken_away_for_the_socket() -> Result<()> {
    let mut broker = Broker::make("")?;
    let home = broker.home();
    let socket = home.join("admin.sock");
    fs::write(&socket, "somebody's")?;
    let (_, said) = broker.start_in_vain()?;
    assert!(said.contains("admin.sock: is there already and is no socket"), "{said}");
    assert_eq!(fs::read_to_string(&socket)?, "somebody's");
    fs::rename(&socket, home.join("precious"))?;
    symlink(home.join("precious"), &socket)?;
    broker.start_in_vain()?;
    assert!(socket.is_symlink() && home.join("precious").exists());
    fs::remove_file(&socket)?;
    // Nor what stands where it is made.
    fs::create_dir(home.join("admin.making"))?;
    fs::write(home.join("admin.making/mine"), "x")?;
    let (_, said) = broker.start_in_vain()?;
    assert!(said.contains("admin.making"), "{said}");
    assert!(home.join("admin.making/mine").exists());
    fs::remove_dir_all(home.join("admin.making"))?;
    broker.start()?;
    // What has taken its place meanwhile stays at the stop.
    fs::remove_file(&socket)?;
    fs::write(&socket, "somebody's")?;
    broker.stop()?;
    assert_eq!(fs::read_to_string(&socket)?, "somebody's");
    Ok(())
}

#[test]
fn a_key_goes_into_a_file_that_was_made_before_it_was_issued_or_is_not_issued() -> Result<()> {
    let mut broker = Broker::make("")?;
    broker.start()?;
    let (_, list, told) = broker.command(&["relying-party", "list"])?;
    assert!(list.is_empty() && told.contains("None yet: countersign relying-party register"), "{told}");
    let register = [
        "relying-party",
        "register",
        "--name",
        "My login",
        "--application",
        "Webmail",
        "--realm",
        "example.org",
    ];
    let (_, id, told) = broker.command(&register)?;
    assert_eq!(told.matches("--out ").count(), 2, "{told}");
    let id = id.trim();
    let out = broker.home().join("sign-in.key");
    let file = out.to_str().unwrap();
    let issue = |id: &str, out: &str| {
        broker.command(&["credential", "issue", "--relying-party", id, "--scope", "sign-in", "--out", out])
    };
    let (status, _, told) = issue(id, file)?;
    assert!(status.success() && told.starts_with("Issued ") && told.contains("; the key is in "), "{told}");
    assert_eq!(fs::metadata(&out)?.permissions().mode() & 0o777, 0o600);
    for (elsewhere, says) in
        [(file, "never written over another file"), ("/nowhere/sign-in.key", "cannot be made")]
    {
        let (status, _, told) = issue(id, elsewhere)?;
        assert!(!status.success() && told.contains(says), "{told}");
    }
    let other = broker.home().join("other.key");
    for unknown in ["x".to_owned(), "0".repeat(26)] {
        let (status, _, told) = issue(&unknown, other.to_str().unwrap())?;
        assert!(!status.success() && told.contains("`countersign relying-party list` shows them"), "{told}");
        assert!(!other.exists(), "an empty file is no key");
    }
    let (_, _, told) = issue("x", other.to_str().unwrap())?;
    assert!(told.contains("relying_party_id is not a relying party's id"), "{told}");
    let (_, list, _) = broker.command(&["relying-party", "list"])?;
    assert_eq!(list.matches("API key").count(), 1, "one was issued, and none that nobody has: {list}");
    Ok(())
}

#[test]
fn who_is_not_there_is_told_apart() -> Result<()> {
    let mut broker = Broker::make("")?;
    let (_, _, said) = broker.command(&["relying-party", "list"])?;
    assert!(
        said.contains("no broker runs with this configuration") && said.contains("is not there"),
        "{said}"
    );
    assert!(said.contains("countersign serve --config"), "{said}");
    broker.start()?;
    broker.kill()?;
    let (_, _, said) = broker.command(&["relying-party", "list"])?;
    assert!(said.contains("nobody listens on"), "{said}");
    // And the socket that was left behind is in nobody's way.
    broker.start()?;

    let elsewhere = tempfile::tempdir()?;
    let check = |arguments: &[&str]| {
        let mut command = Command::new(countersign());
        command.args(arguments).current_dir(&elsewhere).env_remove("COUNTERSIGN_CONFIG");
        command.output().map(|done| String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let said = check(&["config", "check"])?;
    assert!(said.contains("countersign.toml is not there: name the configuration with --config"), "{said}");
    assert!(!said.contains("os error"), "{said}");
    let (status, said, _) = {
        let mut command = Command::new(countersign());
        let done = command.args(["config", "check", "--config"]).arg(broker.home()).output()?;
        (done.status, String::from_utf8_lossy(&done.stdout).into_owned(), done.stderr)
    };
    assert!(
        status.success() && said.contains("countersign.toml: good"),
        "of a folder, the file in it: {said}"
    );
    let said = check(&["init", countersign().to_str().unwrap()])?;
    assert!(said.contains("is a file, not a folder"), "{said}");
    Ok(())
}

#[test]
fn a_command_whose_output_nobody_reads_ends_silently() -> Result<()> {
    let mut broker = Broker::make("")?;
    broker.start()?;
    let register = [
        "relying-party",
        "register",
        "--name",
        "My login",
        "--application",
        "Webmail",
        "--realm",
        "example.org",
    ];
    broker.command(&register)?;
    for arguments in [&["relying-party", "list"][..], &["log", "show"], &["config", "check"]] {
        let mut command = Command::new(countersign());
        command.args(arguments).arg("--config").arg(broker.config_file());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said)?;
        child.wait()?;
        assert_eq!(said, "", "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_tls_key_that_others_can_change_is_refused() -> Result<()> {
    let mut broker =
        Broker::make("[server.tls]\ncertificate_file = \"chain.pem\"\nkey_file = \"tls.key\"\n")?;
    let home = broker.home();
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    fs::write(home.join("chain.pem"), certificate.pem())?;
    fs::write(home.join("tls.key"), key.serialize_pem())?;
    let mode = |mode| fs::set_permissions(home.join("tls.key"), fs::Permissions::from_mode(mode));
    mode(0o666)?;
    let (_, said) = broker.start_in_vain()?;
    assert!(said.contains("tls.key: others may write to this file (mode 0666)"), "{said}");
    assert!(said.contains("chmod go-w") && said.contains("server.tls.key_file, line "), "{said}");
    mode(0o644)?;
    broker.start()?;
    assert!(broker.said().contains("may read a private key"), "{}", broker.said());
    broker.stop()?;
    mode(0o600)?;
    let text = fs::read_to_string(broker.config_file())?;
    broker.edit_configuration(|_| set(&text, &[("request_s", "1")]))?;
    broker.start()?;
    Ok(())
}
