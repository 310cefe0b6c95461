//! Certificates that are replaced while the broker runs.

use std::{fs, sync::Arc};

use countersign_envelope::Algorithm;
use countersign_proto::v1::{
    self, OutcomeKind, administration_client::AdministrationClient, reload_tls_reply::Result as Reloaded,
};
use countersign_tests::{
    Broker, Result,
    process::free_port,
    world::{APPLICATION, PATIENCE, REALM, issued, outcome, register},
};
use device_sim::{
    clock::Clock,
    login::{ApiKey, EnrollingPage, EnrolmentStep, LoginServer, SignIn},
    phone::{Decision, Invitation, NewPhone, Phone, PushTarget},
    wire::Transport,
};
use rustix::process::Signal;
use rustls::pki_types::{ServerName, pem::PemObject};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::support::{
    pki::{Authority, Certified, Secured, tls_section},
    refusal,
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
    assert!(said.contains("TLS was read again") && said.contains("server.tls.chain.pem"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_used_keeps_the_old_certificate_and_is_named() -> Result<()> {
    let secured = Secured::start()?;
    let port = secured.broker.port();
    let before = shown(port, &secured.authority).await?;
    let reload = || secured.broker.command(&["tls", "reload"]);
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
    assert_eq!(logged.matches("TLS has changed and cannot be used").count(), 3, "each once: {logged}");
    assert!(!logged.contains("PRIVATE"), "{logged}");

    secured.replace_server(&other)?;
    let (status, said, _) = reload()?;
    assert!(status.success() && said == "[server.tls] read again: new connections get it\n", "{said}");
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
        let reply = client.reload_tls(v1::ReloadTlsRequest {}).await?.into_inner();
        Ok::<_, tonic::Status>(
            reply.listeners.iter().map(|one| (one.section.clone(), one.result())).collect::<Vec<_>>(),
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
async fn a_broker_without_tls_survives_a_hangup() -> Result<()> {
    let mut broker = Broker::make("")?;
    broker.start()?;
    broker.signal(Signal::HUP)?;
    let (status, said, _) = broker.command(&["tls", "reload"])?;
    assert!(status.success() && said.contains("there is nothing to read"), "{said}");
    let status = broker.stop()?;
    assert!(status.success() && broker.said().contains("SIGHUP reads TLS again"), "{}", broker.said());
    Ok(())
}
