//! TLS: who proves what to whom.

use std::fs;

use countersign_envelope::Algorithm;
use countersign_proto::v1::{
    self, CredentialScope, OutcomeKind, administration_client::AdministrationClient,
};
use countersign_tests::{
    Broker, Result,
    process::free_port,
    world::{APPLICATION, PATIENCE, REALM, register},
};
use device_sim::{
    clock::Clock,
    login::{ApiKey, EnrollingPage, EnrolmentStep, LoginServer, Opened, SignIn},
    phone::{Decision, Invitation, NewPhone, PushTarget},
    wire::Transport,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::support::{
    exposition::Exposition,
    pki::{Authority, Certified, Secured, tls_section},
    refusal, refused,
};

#[tokio::test]
async fn a_phone_is_enrolled_and_a_sign_in_approved_over_tls() -> Result<()> {
    let secured = Secured::start()?;
    let (_, sign_in_key, enrolment_key) = register(&secured.broker, "Example College", REALM).await?;
    let (transport, clock) = (secured.transport(None)?, Clock::new());
    let login = LoginServer::new(&transport, Some(ApiKey::new(sign_in_key)));
    let page = EnrollingPage::new(&transport, Some(ApiKey::new(enrolment_key)));
    let begun = page.begin("alice").await?;
    let invitation = Invitation::scanned(&begun.uri)?;
    assert_eq!(invitation.address(), secured.address(), "the code leads to the broker's https address");
    let new = NewPhone::new("phone", PushTarget::Fcm("nowhere".to_owned()), Algorithm::Es256);
    let (alice, trial) = new.enrol(&transport, &invitation, clock.now()).await?;
    let mut updates = page.watch(&begun.enrolment_id, 1).await?;
    let Some(EnrolmentStep::Trial { number, .. }) = updates.next().await?.map(|update| update.step) else {
        panic!("the trial comes first");
    };
    alice.answer_trial(&transport, &trial, number.expose()).await?;
    let sign_in = SignIn::new("alice", APPLICATION);
    let Some(Opened::Issued(issued)) = login.open(&sign_in).await? else { panic!("it waits") };
    let waiting = alice.list_waiting(&transport, clock.now()).await?.challenges;
    let yes = Decision::Approve { number: issued.number.expose() };
    assert_eq!(alice.answer(&transport, &waiting[0], yes).await?, OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_is_a_credential_only_where_it_was_issued_as_one() -> Result<()> {
    let secured = Secured::start()?;
    let (relying_party_id, sign_in_key, _) = register(&secured.broker, "Example College", REALM).await?;
    let (good, other) = (secured.clients.client("login-1")?, secured.clients.client("login-2")?);
    let mut administration = secured.broker.administration().await?;
    let request = v1::IssueCredentialRequest {
        relying_party_id,
        scope: CredentialScope::SignIn.into(),
        client_certificate: good.der.clone(),
    };
    let issued = administration.issue_credential(request.clone()).await?.into_inner();
    assert_eq!(issued.api_key, "", "there is no key to tell");
    let said = administration.issue_credential(request).await;
    refused(said, Code::AlreadyExists, "CERTIFICATE_IN_USE");

    let login = |certified: Option<&Certified>| {
        Ok::<_, anyhow::Error>(LoginServer::new(&secured.transport(certified)?, None))
    };
    let sign_in = SignIn::new("alice", APPLICATION);
    // Who is let in is told about the account.
    refused(login(Some(&good))?.open(&sign_in).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    refused(login(Some(&other))?.open(&sign_in).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    refused(login(None)?.open(&sign_in).await, Code::Unauthenticated, "CREDENTIAL_MISSING");
    let page = EnrollingPage::new(&secured.transport(Some(&good))?, None);
    refused(page.begin("alice").await, Code::PermissionDenied, "SCOPE_MISSING");
    // Where there is an API key, it alone counts, whatever the connection has shown.
    let transport = secured.transport(Some(&good))?;
    let with_key = |key: &str| LoginServer::new(&transport, Some(ApiKey::new(key)));
    refused(with_key(&sign_in_key).open(&sign_in).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    refused(with_key("csk_x").open(&sign_in).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    // One of another authority does not get through the handshake.
    let forged = Authority::new()?.client("login-1")?;
    let said = refusal(login(Some(&forged))?.open(&sign_in).await);
    assert!(said.is_lost(), "{said:?}");

    let on_open_connection = login(Some(&good))?;
    refused(on_open_connection.open(&sign_in).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    administration
        .revoke_credential(v1::RevokeCredentialRequest { credential_id: issued.credential_id })
        .await?;
    refused(on_open_connection.open(&sign_in).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    refused(login(Some(&good))?.open(&sign_in).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    Ok(())
}

#[tokio::test]
async fn whoever_speaks_plain_text_to_the_tls_port_is_let_go_and_nobody_else_suffers() -> Result<()> {
    let secured = Secured::start()?;
    let address = format!("127.0.0.1:{}", secured.broker.port());
    for hello in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\0\0\0\0\0\0\0\0"]
    {
        let mut plain = TcpStream::connect(&address).await?;
        plain.write_all(hello.as_bytes()).await?;
        let mut said = Vec::new();
        // An alert, perhaps; then the end.
        let ended = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut said)).await?;
        assert!(ended.is_err() || said.len() <= 7, "{said:?}");
    }
    let plain = Transport::to(secured.broker.address()).open()?;
    let said = refusal(plain.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await);
    assert!(said.is_lost(), "{said:?}");
    let unknown = Transport::to(secured.address()).trusting(Authority::new()?.pem).open()?;
    let said = refusal(unknown.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await);
    assert!(said.is_lost(), "a client does not believe just any certificate: {said:?}");
    secured.transport(None)?.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await?;
    Ok(())
}

#[tokio::test]
async fn when_the_certificate_of_a_listener_expires_is_told_to_prometheus() -> Result<()> {
    let port = free_port()?;
    let mut secured = Secured::start()?;
    secured.broker.stop()?;
    secured
        .broker
        .edit_configuration(|text| text + &format!("\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n"))?;
    secured.broker.start()?;
    let now = Exposition::of(port).await?;
    let expires =
        |listener| now.sum("countersign_tls_certificate_expiry_timestamp_seconds", &[("listener", listener)]);
    assert!((expires("public") - 2_464_300_800.0).abs() < 1.0, "2048-02-03: {}", expires("public"));
    assert!(expires("admin") < 1.0, "a Unix socket has none");
    Ok(())
}

#[tokio::test]
async fn administration_over_tcp_lets_in_operators_with_a_certificate_and_nobody_else() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (authority, operators) = (Authority::new()?, Authority::new()?);
    let port = free_port()?;
    let mut broker = Broker::make("")?;
    let section = tls_section("admin.tls", &broker.home(), &authority.server()?, &operators)?;
    broker.edit_configuration(|text| {
        text.replace("socket = \"admin.sock\"", &format!("listen = \"127.0.0.1:{port}\"")) + &section
    })?;
    broker.start()?;
    let list = async |certified: Option<&Certified>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
        if let Some(certified) = certified {
            tls = tls.identity(Identity::from_pem(&certified.pem, &certified.key));
        }
        let channel: Channel =
            Endpoint::from_shared(format!("https://localhost:{port}"))?.tls_config(tls)?.connect_lazy();
        let listed =
            AdministrationClient::new(channel).list_relying_parties(v1::ListRelyingPartiesRequest {}).await;
        Ok::<_, anyhow::Error>(listed)
    };
    list(Some(&operators.client("operator")?)).await??;
    assert!(list(None).await?.is_err());
    assert!(list(Some(&Authority::new()?.client("operator")?)).await?.is_err());
    assert!(!broker.home().join("admin.sock").exists(), "there is no other way in");
    Ok(())
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() -> Result<()> {
    let mut broker = Broker::make("")?;
    let authority = Authority::new()?;
    let mut server = authority.server()?;
    server.key = authority.server()?.key;
    let section = tls_section("server.tls", &broker.home(), &server, &authority)?;
    broker.edit_configuration(|text| text + &section)?;
    let (status, said) = broker.start_in_vain()?;
    assert!(!status.success());
    assert!(
        said.contains("server.tls.chain.pem: does not go with") && said.contains("server.tls.key.pem"),
        "{said}"
    );
    fs::write(broker.home().join("server.tls.key.pem"), "no key")?;
    let (status, said) = broker.start_in_vain()?;
    assert!(!status.success());
    assert!(said.contains("server.tls.key.pem: holds no private key"), "{said}");
    Ok(())
}
