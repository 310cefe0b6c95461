//! Files that are replaced while the broker runs: certificates, and the keys of push services.

use std::{fs, sync::Arc};

use countersign_envelope::Algorithm;
use countersign_proto::v1::{
    self, OutcomeKind, administration_client::AdministrationClient, progress,
    reload_reply::Result as Reloaded,
};
use countersign_tests::{
    Broker, Result, World,
    process::free_port,
    world::{APPLICATION, PATIENCE, REALM, issued, outcome, register},
};
use device_sim::{
    clock::Clock,
    login::{ApiKey, EnrollingPage, EnrolmentStep, LoginServer, SignIn, Step},
    phone::{Decision, Invitation, NewPhone, Phone, PushTarget},
    push_services::{self, Config, Service, identity::ProviderKey},
    wire::Transport,
};
use rustix::process::Signal;
use rustls::pki_types::{ServerName, pem::PemObject};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::support::{
    ask,
    pki::{Authority, Certified, Secured, tls_section},
    refusal, set,
};

/// The certificate that a connection which begins now is shown.
async fn shown(port: u16, authority: &Authority) -> Result<Vec<u8>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.pem.as_bytes())?)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// Connects until this certificate is shown.
async fn until_shown(port: u16, authority: &Authority, certified: &Certified) -> Result<()> {
    let connecting = async {
        while !shown(port, authority).await.is_ok_and(|shown| shown == certified.der) {
            tokio::task::yield_now().await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, connecting).await?)
}

impl Secured {
    fn replace(&self, file: &str, content: &str) -> Result<()> {
        Ok(fs::write(self.broker.home().join(format!("server.tls.{file}.pem")), content)?)
    }

    fn replace_server(&self, certified: &Certified) -> Result<()> {
        self.replace("chain", &certified.pem)?;
        self.replace("key", &certified.key)
    }

    /// A phone that is enrolled over this way.
    async fn enrol(&self, transport: &Transport, enrolment_key: String) -> Result<Phone> {
        let page = EnrollingPage::new(transport, Some(ApiKey::new(enrolment_key)));
        let begun = page.begin("alice").await?;
        let new = NewPhone::new("phone", PushTarget::Fcm("nowhere".to_owned()), Algorithm::Ed25519);
        let (phone, trial) =
            new.enrol(transport, &Invitation::scanned(&begun.uri)?, Clock::new().now()).await?;
        let mut updates = page.watch(&begun.enrolment_id, 1).await?;
        let Some(EnrolmentStep::Trial { number, .. }) = updates.next().await?.map(|update| update.step)
        else {
            panic!("the trial comes first");
        };
        phone.answer_trial(transport, &trial, number.expose()).await?;
        Ok(phone)
    }
}

#[tokio::test]
async fn a_login_that_waits_across_a_reload_is_told_its_outcome_and_the_next_sees_the_new_certificate()
-> Result<()> {
    let secured = Secured::start()?;
    let port = secured.broker.port();
    let (_, sign_in_key, enrolment_key) = register(&secured.broker, "Example College", REALM).await?;
    let old = secured.transport(None)?;
    let alice = secured.enrol(&old, enrolment_key).await?;
    let login = LoginServer::new(&old, Some(ApiKey::new(&sign_in_key)));
    let mut updates = login.request(&SignIn::new("alice", APPLICATION)).await?;
    let number = issued(&mut updates).await?.number;

    // Of another authority, so that nobody who trusts the first one alone can have begun anew.
    let authority = Authority::new()?;
    let new = authority.server()?;
    secured.replace_server(&new)?;
    secured.broker.signal(Signal::HUP)?;
    until_shown(port, &authority, &new).await?;
    assert!(shown(port, &secured.authority).await.is_err(), "nobody is shown the old one any more");
    let afresh = secured.transport(None)?;
    let said = refusal(afresh.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await);
    assert!(said.is_lost(), "{said:?}");

    let waiting = alice.list_waiting(&old, Clock::new().now()).await?.challenges;
    let yes = Decision::Approve { number: number.expose() };
    assert_eq!(alice.answer(&old, &waiting[0], yes).await?, OutcomeKind::Approved);
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    let said = secured.broker.said();
    assert!(said.contains("files were read again") && said.contains("server.tls"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_used_keeps_the_old_certificate_and_is_named() -> Result<()> {
    let secured = Secured::start()?;
    let port = secured.broker.port();
    let before = shown(port, &secured.authority).await?;
    let reload = || secured.broker.command(&["reload"]);
    let (status, said, _) = reload()?;
    assert!(status.success() && said == "[server.tls] holds what it held\n", "{said}");

    let (new, other) = (secured.authority.server()?, secured.authority.server()?);
    secured.replace_server(&Certified { key: other.key.clone(), ..new })?;
    for _ in 0..2 {
        let (status, said, error) = reload()?;
        assert!(!status.success() && error.contains("meanwhile what was read before is used"), "{error}");
        assert!(
            said.contains("[server.tls] kept as it was: ") && said.contains("chain.pem: does not"),
            "{said}"
        );
        assert!(said.contains("server.tls.key.pem"), "{said}");
    }
    secured.replace("key", "no key")?;
    let (_, said, _) = reload()?;
    assert!(said.contains("server.tls.key.pem: holds no private key"), "{said}");
    fs::remove_file(secured.broker.home().join("server.tls.chain.pem"))?;
    let (_, said, _) = reload()?;
    assert!(said.contains("server.tls.chain.pem: cannot be read"), "{said}");
    assert_eq!(shown(port, &secured.authority).await?, before);
    let logged = secured.broker.said();
    assert_eq!(logged.matches("files have changed and cannot be used").count(), 3, "each once: {logged}");
    assert!(!logged.contains("PRIVATE"), "{logged}");

    secured.replace_server(&other)?;
    let (status, said, _) = reload()?;
    assert!(
        status.success() && said == "[server.tls] read again: what begins from now on uses it\n",
        "{said}"
    );
    assert_eq!(shown(port, &secured.authority).await?, other.der);
    Ok(())
}

#[tokio::test]
async fn changed_files_are_found_without_being_told() -> Result<()> {
    let secured = Secured::start()?;
    let clients = Authority::new()?;
    let (old, new) = (secured.clients.client("login")?, clients.client("login")?);
    let describe = async |certified: &Certified| {
        let way = secured.transport(Some(certified))?;
        Ok::<_, anyhow::Error>(way.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await)
    };
    describe(&old).await??;
    assert!(describe(&new).await?.is_err(), "its authority is not known yet");
    secured.replace("clients", &clients.pem)?;
    let found = async {
        while describe(&new).await?.is_err() {
            tokio::task::yield_now().await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, found).await??;
    assert!(describe(&old).await?.is_err(), "its authority was withdrawn");
    Ok(())
}

#[tokio::test]
async fn administration_over_tcp_takes_its_new_operators_without_a_start() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (authority, operators) = (Authority::new()?, Authority::new()?);
    let port = free_port()?;
    let mut broker = Broker::make("")?;
    let section = tls_section("admin.tls", &broker.home(), &authority.server()?, &operators)?;
    broker.edit_configuration(|text| {
        text.replace("socket = \"admin.sock\"", &format!("listen = \"127.0.0.1:{port}\"")) + &section
    })?;
    broker.start()?;
    let connect = |certified: &Certified| {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
        let tls = tls.identity(Identity::from_pem(&certified.pem, &certified.key));
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}"))?.tls_config(tls)?;
        Ok::<_, anyhow::Error>(AdministrationClient::new(endpoint.connect_lazy()))
    };
    let reload = async |client: &mut AdministrationClient<_>| {
        let reply = client.reload(v1::ReloadRequest {}).await?.into_inner();
        Ok::<_, tonic::Status>(
            reply.sections.iter().map(|one| (one.section.clone(), one.result())).collect::<Vec<_>>(),
        )
    };
    let admin = |result| vec![("admin.tls".to_owned(), result)];
    let (next, server) = (Authority::new()?, authority.server()?);
    let mut first = connect(&operators.client("operator")?)?;
    assert_eq!(reload(&mut first).await?, admin(Reloaded::Unchanged));
    tls_section("admin.tls", &broker.home(), &server, &next)?;
    assert_eq!(reload(&mut first).await?, admin(Reloaded::Changed));
    assert_eq!(reload(&mut first).await?, admin(Reloaded::Unchanged), "who was let in goes on");
    assert!(reload(&mut connect(&operators.client("operator")?)?).await.is_err(), "and does not come back");
    assert_eq!(reload(&mut connect(&next.client("operator")?)?).await?, admin(Reloaded::Unchanged));
    Ok(())
}

#[tokio::test]
async fn a_broker_without_tls_and_push_services_survives_a_hangup() -> Result<()> {
    let mut broker = Broker::make("")?;
    broker.start()?;
    broker.signal(Signal::HUP)?;
    let (status, said, _) = broker.command(&["reload"])?;
    assert!(status.success() && said.contains("there is nothing to read"), "{said}");
    let status = broker.stop()?;
    assert!(
        status.success() && broker.said().contains("SIGHUP reads TLS and push services' keys again"),
        "{}",
        broker.said()
    );
    Ok(())
}

/// The page of a sign-in is told that its push was taken, or why not.
async fn pushed(world: &World, account: &str) -> Result<(progress::Kind, String)> {
    let (mut updates, issued) = ask(&world.login, &world.sign_in(account)).await?;
    let read = async {
        while let Some(update) = updates.next().await? {
            if let Step::Progress(progress) = update.step {
                return Ok((progress.kind, progress.reason));
            }
        }
        anyhow::bail!("it is not told")
    };
    let told = tokio::time::timeout(PATIENCE, read).await??;
    world.login.cancel(&issued.approval_id).await?;
    Ok(told)
}

/// Has the broker read its files again: whether all of them can be used, and what it says.
fn reload(world: &World) -> Result<(bool, String)> {
    let (status, said, _) = world.broker.command(&["reload"])?;
    Ok((status.success(), said))
}

fn accepted() -> (progress::Kind, String) {
    (progress::Kind::AcceptedByPushService, String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_for_apple_is_replaced_with_its_id_and_a_bad_one_is_named_and_changes_nothing() -> Result<()>
{
    let mut services = Config::new()?;
    let team = services.identity.provider_key().team_id().to_owned();
    let (unknown, next) = (ProviderKey::generate(&team)?, ProviderKey::generate(&team)?);
    services.identity = services.identity.with_provider_key(next.clone());
    let world = World::with_push("", services).await?;
    world.enrol("alice", Service::Apns, Algorithm::Ed25519).await?;
    assert_eq!(pushed(&world, "alice").await?, accepted());
    let file = world.broker.home().join("next.p8");
    let name = |key: &ProviderKey| {
        let (file, key_id) = (format!("{file:?}"), format!("\"{}\"", key.key_id()));
        world.broker.edit_configuration(|text| set(&text, &[("key_file", &file), ("key_id", &key_id)]))
    };

    fs::write(&file, "no key")?;
    name(&next)?;
    let (well, said) = reload(&world)?;
    assert!(
        !well && said.contains("[push.apns] kept as it was: ") && said.contains("next.p8: holds no"),
        "{said}"
    );
    assert!(said.contains("[push.fcm] holds what it held"), "{said}");
    assert_eq!(pushed(&world, "alice").await?, accepted(), "with the old one");

    // One that Apple does not know shows that it is the new one that is used.
    fs::write(&file, unknown.p8_pem())?;
    name(&unknown)?;
    let (well, said) = reload(&world)?;
    assert!(well && said.contains("[push.apns] read again"), "{said}");
    let (kind, reason) = pushed(&world, "alice").await?;
    assert!(
        kind == progress::Kind::PushFailed && reason.contains("InvalidProviderToken"),
        "{kind:?} {reason}"
    );
    // A connection takes another token every 20 minutes only: the next one has connections of its own.
    fs::write(&file, next.p8_pem())?;
    name(&next)?;
    assert!(reload(&world)?.0);
    assert_eq!(pushed(&world, "alice").await?, accepted());
    let said = world.broker.said();
    assert!(said.contains("files were read again"), "{said}");
    for key in [&unknown, &next] {
        let secret = key.p8_pem();
        assert!(!said.contains(secret.lines().nth(1).unwrap()), "a key is in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_account_for_google_is_replaced_and_one_of_another_project_is_not_taken() -> Result<()> {
    let world = World::new().await?;
    world.enrol("bob", Service::Fcm, Algorithm::Es256).await?;
    assert_eq!(pushed(&world, "bob").await?, accepted());
    let file = world.broker.home().join("account.json");
    let put = |account: &str| fs::write(&file, account);
    let name = format!("{file:?}");
    world.broker.edit_configuration(|text| set(&text, &[("service_account_file", &name)]))?;
    let of_project = |project: &str| -> Result<String> {
        let folder = tempfile::tempdir()?;
        let saved =
            push_services::Identity::generate(project)?.save(folder.path(), &world.push.token_uri())?;
        Ok(fs::read_to_string(saved.service_account)?)
    };
    for (account, problem) in [
        (String::new(), "account.json: is no service account file"),
        (of_project("another-project")?, "account.json: is a service account of another project"),
    ] {
        put(&account)?;
        let (well, said) = reload(&world)?;
        assert!(!well && said.contains("[push.fcm] kept as it was: ") && said.contains(problem), "{said}");
        assert_eq!(pushed(&world, "bob").await?, accepted(), "with the old one");
    }
    put(&of_project(world.push.project_id())?)?;
    assert!(reload(&world)?.0);
    let (kind, reason) = pushed(&world, "bob").await?;
    assert!(kind == progress::Kind::PushFailed && reason.contains("invalid_grant"), "{kind:?} {reason}");
    put(&world.push.service_account_json())?;
    assert!(reload(&world)?.0);
    assert_eq!(pushed(&world, "bob").await?, accepted());
    Ok(())
}
