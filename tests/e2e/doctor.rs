//! `countersign doctor`: each thing that can be wrong, provoked, is found and comes with what to do.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use countersign::log::{Append, EventLog as _, EventRecord, Expected, StreamId, StreamKind, Urgency};
use countersign_tests::{Broker, Result, World, programs::countersign};
use device_sim::{
    clock::Clock,
    push_services::{Effect, Fault, Place, ProviderKey, Reason},
};
use serde_json::Value;

use crate::support::{past::open_log, set};

/// What the doctor says, as programs read it.
struct Said {
    all: Value,
    well: bool,
}

impl Said {
    fn of(broker: &Broker, more: &[&str]) -> Result<Self> {
        let (status, out, error) = broker.command(&[&["doctor", "--json"], more].concat())?;
        let all: Value = serde_json::from_str(&out).map_err(|_| anyhow::anyhow!("{out} {error}"))?;
        assert_eq!(status.success(), all["failures"] == 0, "{out}");
        Ok(Self { all, well: status.success() })
    }

    /// The same, while everything else in this runtime goes on.
    fn heard(world: &World) -> Result<Self> {
        tokio::task::block_in_place(|| Self::of(&world.broker, &[]))
    }

    fn results(&self, check: &str) -> Vec<(&str, &str, &str)> {
        let all = self.all["checks"].as_array().unwrap().iter().filter(|one| one["check"] == check);
        let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
        all.map(|one| {
            let [result, says, todo] = ["result", "says", "do"].map(|key| text(one, key).leak() as &str);
            (result, says, todo)
        })
        .collect()
    }

    /// One finding of this check has this result, says this, and says to do that.
    #[track_caller]
    fn finds(&self, check: &str, result: &str, says: &str, todo: &str) {
        let found = self.results(check);
        let fits =
            |one: &&(&str, &str, &str)| one.0 == result && one.1.contains(says) && one.2.contains(todo);
        assert!(found.iter().any(|one| fits(&one)), "{check} {result} {says:?} {todo:?}: {:#}", self.all);
        assert_eq!(self.well, result != "failure" && self.all["failures"] == 0);
    }

    #[track_caller]
    fn is_good(&self, check: &str) {
        let found = self.results(check);
        assert!(!found.is_empty() && found.iter().all(|one| one.0 == "good"), "{check}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_with_a_broker_that_runs_and_with_one_that_could() -> Result<()> {
    let mut world = World::new().await?;
    let running = Said::heard(&world)?;
    assert!(running.well);
    running.finds("broker", "good", "runs, and answers", "");
    running.finds("log", "good", "open in the broker", "");
    running.finds("keys", "good", "the log's, and", "");
    assert_eq!(world.push.counters().accepted, 0, "no phone was pushed to");
    world.broker.stopped().await?;
    let stopped = Said::heard(&world)?;
    assert!(stopped.well);
    stopped.finds("broker", "good", "its addresses are free", "");
    stopped.finds("log", "good", "closed; its last position is ", "");
    for said in [&running, &stopped] {
        let known =
            ["configuration", "keys", "key-files", "server.tls", "callers", "broker", "open-files", "log"];
        known.iter().chain(&["clock", "push.apns", "push.fcm"]).for_each(|check| said.is_good(check));
        assert_eq!(said.results("disk").len(), 2 + usize::from(said.results("disk").len() > 2));
        for one in said.all["checks"].as_array().unwrap() {
            assert_eq!(one["do"].is_null(), one["result"] == "good", "{one}");
        }
    }
    let (status, text, _) = tokio::task::block_in_place(|| world.broker.command(&["doctor"]))?;
    assert!(status.success() && text.contains("✓ push.apns"), "{text}");
    assert!(text.trim_end().lines().next_back().unwrap().to_lowercase().contains("well"), "{text}");
    for secret in secrets(&world.broker)? {
        assert!(!text.contains(&secret) && !running.all.to_string().contains(&secret), "{text}");
    }
    Ok(())
}

/// All lines of the broker's keys, as they stand in their files.
fn secrets(broker: &Broker) -> Result<Vec<String>> {
    let mut secrets = Vec::new();
    for file in fs::read_dir(broker.home().join("keys"))? {
        let line = fs::read_to_string(file?.path())?;
        secrets.extend(line.split_whitespace().next_back().filter(|hex| hex.len() == 64).map(str::to_owned));
    }
    assert_eq!(secrets.len(), 5);
    Ok(secrets)
}

#[test]
fn keys_that_are_missing_open_damaged_or_anothers_are_each_found() -> Result<()> {
    let mut broker = Broker::make("")?;
    let keys = broker.home().join("keys");
    let new = Said::of(&broker, &[])?;
    new.finds("log", "good", "none yet", "");
    new.finds("push", "warning", "no push service is configured", "[push.apns]");
    broker.start()?;
    broker.stop()?;
    let mode = |file: &str, mode| fs::set_permissions(keys.join(file), fs::Permissions::from_mode(mode));
    mode("sealing-key", 0o640)?;
    fs::remove_file(keys.join("nonce-key"))?;
    fs::write(keys.join("lookup-key"), "countersign lookup-key v1 00\n")?;
    let said = Said::of(&broker, &[])?;
    said.finds("keys", "failure", "sealing-key: others than its owner", "chmod go-rwx '");
    said.finds("keys", "failure", "nonce-key is not there", "restore it from the backup");
    said.finds("keys", "failure", "lookup-key does not hold a lookup-key", "restore it from the backup");
    assert_eq!(said.results("keys").len(), 3, "all of it at once");
    fs::remove_dir_all(&keys)?;
    Said::of(&broker, &[])?.finds("keys", "failure", "keys is not there", "restore it from the backup");
    fs::rename(Broker::make("")?.home().join("keys"), &keys)?;
    let said = Said::of(&broker, &[])?;
    said.finds(
        "keys",
        "failure",
        "the log was written by the broker",
        "restore the keys that belong to this log",
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn push_services_that_do_not_answer_are_found_with_what_stands_in_the_way() -> Result<()> {
    let mut world = World::new().await?;
    world.broker.stopped().await?;
    let config = fs::read_to_string(world.broker.config_file())?;
    let apns = format!("\"{}\"", world.push.apns_url());
    let with = |address: &str| world.broker.edit_configuration(|_| config.replace(&apns, address));
    with("\"https://countersign.invalid\"")?;
    let said = Said::heard(&world)?;
    said.finds("push.apns", "failure", "https://countersign.invalid does not answer", "DNS");
    said.is_good("push.fcm");
    // The simulated services' authority is nobody's that the system trusts.
    world.broker.edit_configuration(|_| config.replace("ca_file = ", "# ca_file = "))?;
    let said = Said::heard(&world)?;
    for check in ["push.apns", "push.fcm"] {
        said.finds(check, "failure", "certificate", "set ca_file");
    }
    world.broker.edit_configuration(|_| config.clone())?;
    world.push.faults().arm(Fault::new(Effect::Status(503)))?;
    let said = Said::heard(&world)?;
    said.finds("push.apns", "warning", "'not now': ServiceUnavailable", "status page");
    said.finds("push.fcm", "warning", "'not now': UNAVAILABLE", "status page");
    let World { push, broker, .. } = world;
    push.shutdown().await;
    let said = tokio::task::block_in_place(|| Said::of(&broker, &[]))?;
    for check in ["push.apns", "push.fcm"] {
        said.finds(check, "failure", "does not answer: cannot connect: ", "firewall");
    }
    let said = tokio::task::block_in_place(|| Said::of(&broker, &["--offline"]))?;
    assert!(said.well && said.results("push.apns").is_empty(), "nobody was asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_not_taken_are_explained() -> Result<()> {
    let mut world = World::new().await?;
    world.broker.stopped().await?;
    let faults = world.push.faults();
    for (reason, todo) in [
        (Reason::TopicDisallowed, "bundle identifier"),
        (Reason::BadEnvironmentKeyIdInToken, "push.apns.endpoint"),
        (Reason::ExpiredProviderToken, "clock"),
    ] {
        faults.arm(Fault::new(Effect::Apns(reason)))?;
        let said = Said::heard(&world)?;
        said.finds(
            "push.apns",
            "failure",
            &format!("does not take our credentials: {}", reason.as_str()),
            todo,
        );
        faults.clear();
    }
    faults.arm(Fault::new(Effect::Status(400)).at(Place::FcmToken))?;
    let said = Said::heard(&world)?;
    said.finds("push.fcm", "failure", "no access token: invalid_grant", "set this machine's clock");
    faults.clear();
    faults.arm(Fault::new(Effect::Status(401)).at(Place::Fcm))?;
    Said::heard(&world)?.finds("push.fcm", "failure", "UNAUTHENTICATED", "JSON file anew");
    faults.clear();

    // Without a fault: another key, another project.
    let config = fs::read_to_string(world.broker.config_file())?;
    let file = |key: &str| {
        let line = config.lines().find(|line| line.starts_with(key)).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let other = ProviderKey::generate("TEAM456789")?;
    let apns = config.split("\n[push.apns]").nth(1).unwrap();
    let p8 = apns.lines().find(|line| line.starts_with("key_file")).unwrap().split('"').nth(1).unwrap();
    fs::write(p8, other.p8_pem())?;
    fs::set_permissions(p8, fs::Permissions::from_mode(0o644))?;
    let account = file("service_account_file");
    let text = fs::read_to_string(&account)?;
    fs::write(&account, text.replace(&format!("\"{}\"", world.push.project_id()), "\"another\""))?;
    let said = Said::heard(&world)?;
    said.finds("push.apns", "failure", "InvalidProviderToken", "key_file, key_id and team_id");
    said.finds("push.fcm", "failure", "PERMISSION_DENIED", "Firebase Cloud Messaging API");
    said.finds("key-files", "warning", "others than its owner may use it", "chmod go-rwx");
    fs::write(p8, "no key")?;
    let said = Said::heard(&world)?;
    said.finds("push.apns", "failure", "holds no private key of APNs", ".p8");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_found_with_its_seconds() -> Result<()> {
    let mut world = World::new().await?;
    world.broker.stopped().await?;
    world.push.clock().advance(Duration::from_secs(30));
    let said = Said::heard(&world)?;
    assert!(said.well);
    said.finds("clock", "warning", " s behind the push services' clocks", "NTP");
    let seconds: u64 = said.results("clock")[0].1.split(' ').nth(1).unwrap().parse()?;
    assert!((28..=31).contains(&seconds), "{seconds}");
    world.push.clock().advance(Duration::from_secs(90 * 60));
    let said = Said::heard(&world)?;
    said.finds("clock", "failure", " s behind the push services' clocks", "NTP");
    said.finds("push.apns", "failure", "ExpiredProviderToken", "clock");
    said.finds("push.fcm", "failure", "invalid_grant", "clock");
    let later = UNIX_EPOCH + Duration::from_millis(Clock::new().now().millis()) + Duration::from_secs(3_600);
    fs::File::options().append(true).open(world.broker.config_file())?.set_modified(later)?;
    let said = tokio::task::block_in_place(|| Said::of(&world.broker, &["--offline"]))?;
    said.finds("clock", "warning", "files were changed 3", "NTP");
    Ok(())
}

/// Writes a certificate for this name, good for so many days from so many days before now on, and its key.
fn certify(folder: &Path, name: &str, days_ago: u64, days: u64) -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let now = UNIX_EPOCH + Duration::from_millis(Clock::new().now().millis());
    let begin = now - DAY * u32::try_from(days_ago)?;
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    params.not_before = begin.into();
    params.not_after = (begin + DAY * u32::try_from(days)?).into();
    let key = rcgen::KeyPair::generate()?;
    fs::write(folder.join("chain.pem"), params.self_signed(&key)?.pem())?;
    fs::write(folder.join("tls.key"), key.serialize_pem())?;
    Ok(fs::set_permissions(folder.join("tls.key"), fs::Permissions::from_mode(0o600))?)
}

#[test]
fn a_certificate_that_is_over_soon_over_or_for_somebody_else_is_found() -> Result<()> {
    let broker = Broker::make("[server.tls]\ncertificate_file = \"chain.pem\"\nkey_file = \"tls.key\"\n")?;
    let home = broker.home();
    let look = || Said::of(&broker, &[]);
    look()?.finds("server.tls", "failure", "chain.pem: cannot be read", "certificate chain");
    certify(&home, "127.0.0.1", 10, 100)?;
    look()?.finds("server.tls", "good", "is good for 8", "");
    look()?.is_good("server.tls");
    certify(&home, "127.0.0.1", 90, 100)?;
    look()?.finds("server.tls", "warning", "days more", "renew it");
    certify(&home, "127.0.0.1", 10, 7)?;
    look()?.finds("server.tls", "failure", "has been over for ", "renew it");
    certify(&home, "approve.example.org", 10, 100)?;
    look()?.finds("server.tls", "warning", "is not for 127.0.0.1", "have it issued for 127.0.0.1");
    fs::write(home.join("tls.key"), rcgen::KeyPair::generate()?.serialize_pem())?;
    look()?.finds("server.tls", "failure", "does not go with", "the private key that belongs to it");
    Ok(())
}

/// Appends so many entries of 300 bytes, recorded so long from now.
async fn append(stopped: &Broker, entries: usize, ahead: Duration) -> Result<()> {
    let log = open_log(stopped)?;
    for _ in 0..entries {
        let append = Append {
            stream: StreamId::new(StreamKind::Delivery, [7; 16]),
            expected: Expected::Any,
            urgency: Urgency::Now,
            recorded_at_ms: Clock::new().now().plus(ahead).millis(),
            events: vec![EventRecord {
                kind: 9_999,
                version: 1,
                may_ignore: true,
                body: vec![0; 300].into(),
                sealed: bytes::Bytes::new(),
            }],
        };
        log.append(append).await?;
    }
    log.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_found_in_its_last_segment_and_with_deep_anywhere() -> Result<()> {
    let mut broker = Broker::make("")?;
    broker.edit_configuration(|text| text.replace("# segment_bytes = 67108864", "segment_bytes = 4096"))?;
    broker.start()?;
    broker.stop()?;
    append(&broker, 50, Duration::ZERO).await?;
    let journal = broker.home().join("log/journal");
    let mut segments: Vec<_> = fs::read_dir(&journal)?.map(|file| file.unwrap().path()).collect();
    segments.sort();
    let whole = Said::of(&broker, &["--deep"])?;
    whole.finds("log", "good", "entries are as they were written", "");
    let damaged = |segment: &Path, more: &[&str]| {
        let sound = fs::read(segment)?;
        let mut bytes = sound.clone();
        bytes[200] ^= 1;
        fs::write(segment, bytes)?;
        let said = Said::of(&broker, more)?;
        fs::write(segment, sound)?;
        Ok::<_, anyhow::Error>(said)
    };
    let last = damaged(&segments[segments.len() - 1], &[])?;
    last.finds("log", "failure", "byte ", "countersign log repair --config");
    let first = &segments[1];
    assert!(damaged(first, &[])?.well, "a look at the last segment does not see it");
    damaged(first, &["--deep"])?.finds("log", "failure", "byte ", "countersign log repair --config");
    let aside = broker.home().join("aside");
    fs::rename(&journal, &aside)?;
    Said::of(&broker, &[])?.finds("log", "failure", "the journal is not there", "restore its backup");
    fs::rename(&aside, &journal)?;
    append(&broker, 1, Duration::from_secs(600)).await?;
    Said::of(&broker, &[])?.finds("clock", "failure", " s behind the log's last entry", "NTP");
    Ok(())
}

#[test]
fn what_keeps_a_broker_from_working_is_found_before_it_starts() -> Result<()> {
    let mut broker = Broker::make("")?;
    let taken = std::net::TcpListener::bind(("127.0.0.1", broker.port()))?;
    Said::of(&broker, &[])?.finds("broker", "failure", "is in use", "free the address");
    drop(taken);
    let limited = |files: u32| {
        let program = format!("ulimit -n {files}; exec \"$0\" doctor --json --config \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &program]).arg(countersign()).arg(broker.config_file());
        let all: Value = serde_json::from_slice(&command.output()?.stdout)?;
        let well = all["failures"] == 0;
        Ok::<_, anyhow::Error>(Said { all, well })
    };
    limited(1_000)?.finds("open-files", "warning", "it takes 744 connections", "LimitNOFILE=");
    limited(260)?.finds("open-files", "failure", "cannot work with so few", "LimitNOFILE=");
    broker.start()?;
    Said::of(&broker, &[])?.finds("open-files", "good", "the broker may open", "");
    fs::remove_file(broker.home().join("admin.sock"))?;
    let said = Said::of(&broker, &[])?;
    said.finds("broker", "warning", "nobody answers on admin.socket", "start it again");

    let text = fs::read_to_string(broker.config_file())?;
    broker.edit_configuration(|_| set(&text, &[("digits", "7")]))?;
    let said = Said::of(&broker, &[])?;
    said.finds("configuration", "failure", "must be a number, 2 to 6", "countersign init");
    let (status, _, told) = broker.command(&["doctor", "--nonsense"])?;
    assert!(status.code() == Some(2) && told.contains("--nonsense"), "{told}");
    Ok(())
}

#[test]
fn limits_of_addresses_behind_a_proxy_of_which_all_callers_have_the_address_are_found() -> Result<()> {
    let broker = Broker::make("")?;
    Said::of(&broker, &["--offline"])?.finds(
        "callers",
        "good",
        "behind what shows its own, set them to 0",
        "",
    );
    let put = |settings: &[(&str, &str)]| broker.edit_configuration(|text| set(&text, settings));
    put(&[("public_url", "\"https://approve.example.org\"")])?;
    let says = "share what is for one (calls_per_s_of_address and failures_per_s_of_address)";
    Said::of(&broker, &["--offline"])?.finds("callers", "warning", says, "limit addresses at the proxy");
    put(&[("calls_per_s_of_address", "0")])?;
    let says = "share what is for one (failures_per_s_of_address)";
    Said::of(&broker, &["--offline"])?.finds("callers", "warning", says, "failures_per_s_of_address = 0");
    put(&[("failures_per_s_of_address", "0")])?;
    Said::of(&broker, &["--offline"])?.finds("callers", "good", "no limit of an address is on", "");
    Ok(())
}
