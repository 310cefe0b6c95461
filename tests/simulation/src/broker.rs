//! The broker on its host: the rooms as the program puts them together, with a door to the simulated network.

use std::sync::Arc;

use countersign::{
    api::listen::{Peer, Server},
    broker::{Assembled, Foundations},
    clock::Clock,
    decider::codec::AccountCodec,
    entropy::Entropy,
    keys::identity,
    live::AllLive,
    log::EventLog,
    telemetry::metrics::labels::Listener,
};
use countersign_proto::v1::{self, administration_server::Administration as _};
use tokio_util::sync::CancellationToken;

use crate::{
    chance::BrokerEntropy,
    door::Door,
    mutation::Tampered,
    net::{PORT, Wire},
    stage::{APPLICATION, Credentials, REALM, Stage},
};

type Failed = Box<dyn std::error::Error>;

/// Runs until the host crashes.
pub(crate) async fn run(stage: Arc<Stage>) -> Result<(), Failed> {
    let start = stage.next_start();
    stage.witness.note(format!("the broker starts, {start}"));
    let clock: Arc<dyn Clock> = Arc::clone(&stage.clock) as _;
    let entropy: Arc<dyn Entropy> = Arc::new(BrokerEntropy::of(&format!("broker {start}"), stage.seed));
    let codec = AccountCodec::new(Arc::clone(&stage.keys), Arc::clone(&entropy));
    let tampered = Tampered::new(
        stage.log(),
        stage.mutation,
        codec,
        Arc::clone(&stage.keys),
        Arc::clone(&stage.captured),
        Arc::clone(&clock),
    );
    let log: Arc<dyn EventLog> = Arc::new(tampered.clone());
    identity::introduce(&*log, &stage.keys, &*clock).await?;
    let on = Foundations { log, keys: Arc::clone(&stage.keys), clock, entropy };
    let stopping = CancellationToken::new();
    let push = vec![stage.post.service()];
    let Assembled { services, administration, accounts, work } =
        Assembled::new(&stage.config, on, push, AllLive::default(), stopping.clone()).await?;
    stage.serves(accounts, Arc::clone(&administration.index));
    let tampered = stage.mutation.is_some().then_some(tampered);
    let door = Door { front: services.public().await, tampered };
    let limits = stage.config.limits.of_listener();
    let server = Server::new(door, limits, Listener::Public, stopping);
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut workers = work.begin();
    if start == 0 {
        register(&stage, &administration).await?;
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, address) = accepted?;
                server.accepted(Wire(stream), Peer { address: Some(address), certificate_hash: None });
            }
            ended = workers.ended() => {
                stage.witness.wrong(format!("the broker ends by itself: {ended}"));
                return Ok(());
            }
        }
    }
}

/// The operator's part.
async fn register(
    stage: &Stage,
    administration: &countersign::api::grpc::Administration,
) -> Result<(), Failed> {
    let request = v1::RegisterRelyingPartyRequest {
        name: "Example".to_owned(),
        applications: vec![APPLICATION.to_owned()],
        realm: REALM.to_owned(),
    };
    let registered = administration.register_relying_party(tonic::Request::new(request)).await?.into_inner();
    let mut keys = Vec::new();
    for scope in [v1::CredentialScope::SignIn, v1::CredentialScope::Enrolment] {
        let request = v1::IssueCredentialRequest {
            relying_party_id: registered.relying_party_id.clone(),
            scope: scope.into(),
            client_certificate: bytes::Bytes::new(),
        };
        let issued = administration.issue_credential(tonic::Request::new(request)).await?.into_inner();
        keys.push(format!("Bearer {}", issued.api_key));
    }
    let [sign_in, enrolment] = keys.try_into().expect("two were issued");
    stage.issue(Credentials { sign_in, enrolment });
    Ok(())
}
