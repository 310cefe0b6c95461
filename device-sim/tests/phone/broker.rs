//! A broker small enough to be read at a glance, that can be told to lie. It keeps the protocol as the .proto files say
//! it, for one account, and nothing on disk.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use countersign_envelope::{
    Algorithm, EnrolmentCode, EnrolmentUri, PublicKey, SigningKey, commitment, payload_type, sha256,
};
use countersign_proto::v1::{
    self, OutcomeKind, approvals_server::ApprovalsServer, authenticators_server::AuthenticatorsServer,
    enrolments_server::EnrolmentsServer,
};
use device_sim::{clock::Clock, login::ApiKey, phone::Number, wire::Transport};
use prost::Message;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(crate) const BROKER_ID: &str = "test-broker";
pub(crate) const ACCOUNT: &str = "åsa";
pub(crate) const API_KEY: &str = "csk_test";
pub(crate) const NONCE: &[u8] = b"the nonce of now";
const SALT: [u8; 32] = [5; 32];

/// Changes an envelope that the broker has signed, or signs another: how it lies.
pub(crate) type Lie = Arc<dyn Fn(&Broker, v1::Envelope) -> v1::Envelope + Send + Sync>;

/// The broker, while it runs. Clones are the same.
#[derive(Clone)]
pub(crate) struct Broker {
    state: Arc<Mutex<State>>,
    key: Arc<SigningKey>,
    pub(crate) clock: Clock,
    pub(crate) address: Arc<str>,
    /// Streams that wait are cut when this changes.
    cuts: watch::Sender<u32>,
    changed: watch::Sender<u32>,
    _stop: Arc<tokio_util::sync::DropGuard>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) enrolments: HashMap<String, Enrolment>,
    pub(crate) phones: HashMap<String, KnownPhone>,
    pub(crate) approvals: HashMap<String, Approval>,
    pub(crate) notices: Vec<v1::Notice>,
    pub(crate) acknowledged: Vec<(i32, String)>,
    pub(crate) requests: u32,
    pub(crate) lie: Option<Lie>,
    /// Believes whatever it is sent.
    pub(crate) is_gullible: bool,
}

pub(crate) struct Enrolment {
    pub(crate) id: String,
    pub(crate) code: EnrolmentCode,
    pub(crate) updates: Vec<v1::EnrolmentUpdate>,
    pub(crate) authenticator: Option<String>,
}

pub(crate) struct KnownPhone {
    pub(crate) key: PublicKey,
    pub(crate) counter: u64,
    pub(crate) push_target: Option<v1::PushTarget>,
    pub(crate) trial: Option<(String, String, v1::Envelope)>,
    pub(crate) is_active: bool,
}

pub(crate) struct Approval {
    pub(crate) number: String,
    pub(crate) challenge: v1::Envelope,
    pub(crate) answer: Option<v1::Envelope>,
    pub(crate) outcome: Option<OutcomeKind>,
    pub(crate) updates: Vec<v1::ApprovalUpdate>,
    pub(crate) session_binding: Bytes,
    pub(crate) expires_at_ms: u64,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let broker = Self {
            state: Arc::default(),
            key: Arc::new(SigningKey::ed25519(&[7; 32])),
            clock: Clock::new(),
            address: address.into(),
            cuts: watch::Sender::new(0),
            changed: watch::Sender::new(0),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        // The services hold no guard: dropping the last clone that a test has stops them.
        let served = Self { _stop: Arc::new(CancellationToken::new().drop_guard()), ..broker.clone() };
        let server = tonic::transport::Server::builder()
            .add_service(AuthenticatorsServer::new(served.clone()))
            .add_service(ApprovalsServer::new(served.clone()))
            .add_service(EnrolmentsServer::new(served))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned());
        tokio::spawn(server);
        broker
    }

    /// The phones' side once more, in TLS: its address, and the certificate that vouches for itself.
    pub(crate) async fn serve_tls(&self) -> (String, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let identity = tonic::transport::Identity::from_pem(cert.pem(), signing_key.serialize_pem());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
        let server = tonic::transport::Server::builder()
            .tls_config(tonic::transport::ServerTlsConfig::new().identity(identity))
            .expect("a good certificate")
            .add_service(AuthenticatorsServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (address, cert.pem())
    }

    /// A code that waits, to type.
    pub(crate) fn begin_code(&self) -> String {
        let (id, _) = self.begin();
        let state = self.state();
        let begun = state.enrolments.values().find(|one| one.id == id).expect("it was begun");
        begun.code.to_text().to_string()
    }

    pub(crate) fn transport(&self) -> Transport {
        Transport::to(&*self.address).open().expect("a loopback address")
    }

    pub(crate) fn api_key() -> ApiKey {
        ApiKey::new(API_KEY)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    /// From now on, what phones are sent is changed by this.
    pub(crate) fn lies(&self, lie: impl Fn(&Self, v1::Envelope) -> v1::Envelope + Send + Sync + 'static) {
        self.state().lie = Some(Arc::new(lie));
    }

    /// What goes to a phone: signed, and changed if the broker lies.
    pub(crate) fn envelope(&self, payload_type: &str, message: &impl Message) -> v1::Envelope {
        sign(&self.key, payload_type, message.encode_to_vec())
    }

    pub(super) fn told(&self, envelope: v1::Envelope) -> v1::Envelope {
        let lie = self.state().lie.clone();
        match lie {
            Some(lie) => lie(self, envelope),
            None => envelope,
        }
    }

    /// A code that waits, as the enrolling page shows it: its enrolment's id and the URI.
    pub(crate) fn begin(&self) -> (String, String) {
        let mut state = self.state();
        let count = u8::try_from(state.enrolments.len()).expect("few");
        let code = EnrolmentCode::from_random(&[count + 1; 12]);
        let id = format!("enrolment-{count}");
        let uri = EnrolmentUri {
            address: self.address.to_string(),
            code: code.clone(),
            broker_fingerprint: self.key.public_key().fingerprint(),
        };
        let begun = v1::enrolment_update::Begun { expires_at: Some(self.in_seconds(600)) };
        let update = v1::EnrolmentUpdate {
            sequence: 1,
            at: Some(self.in_seconds(0)),
            update: Some(v1::enrolment_update::Update::Begun(begun)),
        };
        let enrolment = Enrolment { id: id.clone(), code, updates: vec![update], authenticator: None };
        state.enrolments.insert(enrolment.code.locator().to_owned(), enrolment);
        (id, uri.to_text().to_string())
    }

    /// A sign-in attempt, as the login server asks for it: its id and number.
    pub(crate) fn ask(&self, lifetime: Duration) -> (String, Number) {
        let request = v1::RequestApprovalRequest {
            application: "Webmail".to_owned(),
            session_binding: Bytes::from_static(b"the browser's session"),
            lifetime: Some(lifetime.try_into().expect("short")),
            context: Some(v1::Context { source_ip: "198.51.100.7".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let id = self.open(&request);
        let number = Number::new(self.state().approvals[&id].number.clone());
        (id, number)
    }

    pub(super) fn open(&self, request: &v1::RequestApprovalRequest) -> String {
        let lifetime = request.lifetime.as_ref().map_or(60, |lifetime| lifetime.seconds);
        let mut state = self.state();
        let count = state.approvals.len();
        let (id, number) = (format!("approval-{count}"), format!("{:02}", (41 + count) % 100));
        let expires_at = self.in_seconds(lifetime);
        let challenge = v1::Challenge {
            context: request.context.clone(),
            session_binding: request.session_binding.clone(),
            expires_at: Some(expires_at),
            ..self.challenge(&id, &number)
        };
        let issued = v1::Issued {
            approval_id: id.clone(),
            match_number: number.clone(),
            expires_at: Some(expires_at),
            authenticators_addressed: 1,
        };
        let approval = Approval {
            number,
            challenge: self.envelope(payload_type::CHALLENGE, &challenge),
            answer: None,
            outcome: None,
            updates: Vec::new(),
            session_binding: request.session_binding.clone(),
            expires_at_ms: self.clock.now().millis() + u64::try_from(lifetime).expect("positive") * 1_000,
        };
        state.approvals.insert(id.clone(), approval);
        drop(state);
        self.update(&id, v1::approval_update::Update::Issued(issued));
        id
    }

    /// A challenge with nothing wrong in it.
    pub(crate) fn challenge(&self, id: &str, number: &str) -> v1::Challenge {
        v1::Challenge {
            broker_id: BROKER_ID.to_owned(),
            approval_id: id.to_owned(),
            account_name: ACCOUNT.to_owned(),
            relying_party_name: "Example College".to_owned(),
            application_name: "Webmail".to_owned(),
            context: None,
            session_binding: Bytes::from_static(b"the browser's session"),
            commitment: commitment(id, &SALT, number).to_vec().into(),
            digits: 2,
            issued_at: Some(self.in_seconds(0)),
            expires_at: Some(self.in_seconds(60)),
        }
    }

    pub(crate) fn trial(&self, enrolment: &str, authenticator: &str, number: &str) -> v1::TrialChallenge {
        let issued_at = self.in_seconds(0);
        // From the same moment: a trial may last no millisecond longer.
        let expires_at = prost_types::Timestamp { seconds: issued_at.seconds + 600, ..issued_at };
        v1::TrialChallenge {
            broker_id: BROKER_ID.to_owned(),
            enrolment_id: enrolment.to_owned(),
            authenticator_id: authenticator.to_owned(),
            account_name: ACCOUNT.to_owned(),
            commitment: commitment(enrolment, &SALT, number).to_vec().into(),
            digits: 2,
            issued_at: Some(issued_at),
            expires_at: Some(expires_at),
        }
    }

    pub(crate) fn in_seconds(&self, seconds: i64) -> prost_types::Timestamp {
        let now = i64::try_from(self.clock.now().millis()).expect("before the end of time");
        let at = now + seconds * 1_000;
        prost_types::Timestamp {
            seconds: at / 1_000,
            nanos: i32::try_from(at % 1_000).expect("below 1000") * 1_000_000,
        }
    }

    pub(super) fn update(&self, id: &str, update: v1::approval_update::Update) {
        let mut state = self.state();
        let updates = &mut state.approvals.get_mut(id).expect("it was opened").updates;
        let sequence = u32::try_from(updates.len() + 1).expect("few");
        let at = Some(self.in_seconds(0));
        updates.push(v1::ApprovalUpdate { sequence, at, update: Some(update) });
        drop(state);
        self.change();
    }

    /// An approval ends; the first ending stands.
    pub(crate) fn end(&self, id: &str, kind: OutcomeKind) -> OutcomeKind {
        let mut state = self.state();
        let approval = state.approvals.get_mut(id).expect("it was opened");
        if let Some(outcome) = approval.outcome {
            return outcome;
        }
        approval.outcome = Some(kind);
        let outcome = v1::Outcome {
            kind: kind.into(),
            approval_id: id.to_owned(),
            decided_at: Some(self.in_seconds(0)),
            valid_until: (kind == OutcomeKind::Approved).then(|| self.in_seconds(60)),
            session_binding: approval.session_binding.clone(),
            ..Default::default()
        };
        drop(state);
        self.update(id, v1::approval_update::Update::Outcome(outcome));
        kind
    }

    pub(super) fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// All streams that wait end, as when a broker is killed.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Waits until the broker's state is as the test needs it.
    pub(crate) async fn until<T>(&self, mut found: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        let waits = async {
            loop {
                if let Some(found) = found(&self.state()) {
                    return found;
                }
                changes.changed().await.expect("the broker has it");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it comes")
    }

    pub(super) fn changes(&self) -> (watch::Receiver<u32>, watch::Receiver<u32>) {
        (self.changed.subscribe(), self.cuts.subscribe())
    }

    /// Opens what a phone signed: its key by the id outside, and the message.
    pub(super) fn opened<M: Message + Default>(
        &self,
        envelope: Option<&v1::Envelope>,
        payload_type: &str,
    ) -> Result<M, Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("no envelope"))?;
        let state = self.state();
        let phone = state.phones.get(&envelope.key_id);
        let is_genuine = envelope.payload_type == payload_type
            && phone.is_some_and(|phone| {
                phone.key.verify(payload_type, &envelope.payload, &envelope.signature).is_ok()
            });
        if !is_genuine && !state.is_gullible {
            return Err(refused(tonic::Code::Unauthenticated, "SIGNATURE_INVALID", &[]));
        }
        M::decode(envelope.payload.clone()).map_err(|_| Status::invalid_argument("malformed"))
    }

    /// A new phone of this claim, and its trial.
    pub(super) fn bind(&self, envelope: &v1::Envelope) -> Result<v1::CompleteEnrolmentReply, Status> {
        let invalid = || refused(tonic::Code::Unauthenticated, "ENROLMENT_CODE_INVALID", &[]);
        let claim = v1::EnrolmentClaim::decode(envelope.payload.clone()).map_err(|_| invalid())?;
        let key = claim.authenticator_key.clone().ok_or_else(invalid)?;
        let algorithm = match key.algorithm() {
            v1::SignatureAlgorithm::Es256 => Algorithm::Es256,
            _ => Algorithm::Ed25519,
        };
        let key = PublicKey::parse(algorithm, &key.key).map_err(|_| invalid())?;
        key.verify(payload_type::ENROLMENT_CLAIM, &envelope.payload, &envelope.signature)
            .map_err(|_| invalid())?;
        let mut state = self.state();
        let number = format!("{:02}", 17 + state.phones.len());
        let authenticator = format!("phone-{}", state.phones.len());
        let enrolment = state.enrolments.get_mut(&claim.locator).ok_or_else(invalid)?;
        let knows = enrolment.code.secret().verify_mac(
            &claim.locator,
            self.key.public_key().as_bytes(),
            key.as_bytes(),
            &claim.secret_mac,
        );
        if !knows || enrolment.authenticator.is_some() {
            return Err(invalid());
        }
        enrolment.authenticator = Some(authenticator.clone());
        let trial = self.trial(&enrolment.id, &authenticator, &number);
        let trial = self.envelope(payload_type::TRIAL_CHALLENGE, &trial);
        let update = v1::enrolment_update::Trial {
            authenticator_id: authenticator.clone(),
            device_name: claim.device_name.clone(),
            platform: claim.platform,
            match_number: number.clone(),
            expires_at: Some(self.in_seconds(600)),
        };
        let id = enrolment.id.clone();
        enrolment.push(v1::enrolment_update::Update::Trial(update));
        let phone = KnownPhone {
            key,
            counter: 0,
            push_target: claim.push_target.clone(),
            trial: Some((id.clone(), number, trial.clone())),
            is_active: false,
        };
        state.phones.insert(authenticator.clone(), phone);
        drop(state);
        self.change();
        let receipt = v1::EnrolmentReceipt {
            broker_id: BROKER_ID.to_owned(),
            broker_key: Some(self.public_message()),
            authenticator_id: authenticator,
            account_name: ACCOUNT.to_owned(),
            realm: "example.org".to_owned(),
            claim_hash: sha256(&envelope.payload).to_vec().into(),
            counter: 0,
            nonce: Bytes::new(),
            enrolment_id: id,
        };
        Ok(v1::CompleteEnrolmentReply {
            receipt: Some(self.told(self.envelope(payload_type::ENROLMENT_RECEIPT, &receipt))),
            trial: Some(self.told(trial)),
        })
    }

    pub(super) fn public_message(&self) -> v1::PublicKey {
        v1::PublicKey {
            algorithm: v1::SignatureAlgorithm::Ed25519.into(),
            key: self.key.public_key().as_bytes().to_vec().into(),
        }
    }
}

impl Enrolment {
    pub(super) fn push(&mut self, update: v1::enrolment_update::Update) {
        let sequence = u32::try_from(self.updates.len() + 1).expect("few");
        self.updates.push(v1::EnrolmentUpdate { sequence, at: None, update: Some(update) });
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker")
    }
}

/// Signed by this key, as a broker signs.
pub(crate) fn sign(key: &SigningKey, payload_type: &str, payload: Vec<u8>) -> v1::Envelope {
    v1::Envelope {
        signature: key.sign(payload_type, &payload).to_vec().into(),
        payload: payload.into(),
        payload_type: payload_type.to_owned(),
        key_id: key.public_key().fingerprint(),
    }
}

/// A refusal with the broker's details.
pub(crate) fn refused(code: tonic::Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    use tonic_types::StatusExt as _;
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info(reason, "countersign", metadata);
    let mut status = Status::with_error_details(code, reason.to_lowercase(), details);
    if code == tonic::Code::Unauthenticated {
        let nonce = tonic::metadata::MetadataValue::from_bytes(NONCE);
        status.metadata_mut().insert_bin("countersign-nonce-bin", nonce);
    }
    status
}
