//! The broker on its host: the rooms as the program puts them together, with a door to the simulated network.

use std::sync::Arc;

use bytes::Bytes;
use countersign::{
    api::{
        grpc::{Counted, Front},
        listen::{Answers, Peer, Server},
    },
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
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{Request, Response, body::Incoming};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::{
    chance::SeededEntropy,
    mutation::{Mutation, Tampered},
    net::{PORT, Wire},
    stage::{APPLICATION, Credentials, REALM, Stage},
};

type Failed = Box<dyn std::error::Error>;

/// Runs until the host crashes.
pub(crate) async fn run(stage: Arc<Stage>) -> Result<(), Failed> {
    let start = stage.next_start();
    stage.witness.note(format!("the broker starts, {start}"));
    let clock: Arc<dyn Clock> = Arc::clone(&stage.clock) as _;
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::of(&format!("broker {start}"), stage.seed));
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
    let looked_at =
        LookedAt { front: services.public().await, tampered: stage.mutation.is_some().then_some(tampered) };
    let limits = stage.config.limits.of_listener();
    let server = Server::new(looked_at, limits, Listener::Public, stopping);
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

/// The broker's services. A mutation sees the envelopes of answers as they come in.
#[derive(Clone)]
struct LookedAt {
    front: Front,
    tampered: Option<Tampered>,
}

impl Answers for LookedAt {
    type Body = Counted;

    async fn answer(self, request: Request<Incoming>) -> Response<Counted> {
        match self.tampered {
            Some(tampered) if request.uri().path().ends_with("/SubmitAnswer") => {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
                tampered.look_at_answer(&bytes).await;
                self.front.call(Request::from_parts(parts, Full::new(bytes))).await
            }
            _ => self.front.call(request).await,
        }
    }
}

impl Tampered {
    async fn look_at_answer(&self, bytes: &Bytes) {
        // gRPC: a flag and a length of four bytes, then the message.
        let message = bytes.get(5..).and_then(|message| v1::SubmitAnswerRequest::decode(message).ok());
        let Some(envelope) = message.and_then(|message| message.answer) else { return };
        let hash = crate::ledger::answer_hash(&envelope);
        self.captured.lock().expect("nobody panics").insert(hash, envelope.clone());
        if self.mutation == Some(Mutation::SignatureNotChecked) && envelope.signature[..] == [0; 64] {
            self.take_unchecked(&envelope).await;
        }
    }
}
