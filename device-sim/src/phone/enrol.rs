//! A new phone binds its key: it proves that it knows the code's secret, and takes nothing from the broker that does not
//! fit what it sent.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use countersign_envelope::{Algorithm, EnrolmentCode, payload_type, sha256};
use countersign_proto::v1;
use prost::Message as _;

use super::{
    Phone, Platform, PushTarget, State,
    check::{self, NotShown, Trial},
    invitation::{Broker, Invitation, NotTheBroker, broker_key},
    key::Key,
};
use crate::{
    clock::Timestamp,
    entropy,
    wire::{Refusal, Transport},
};

const NAME_CHARACTERS_MAX: usize = 256;
/// A claim whose reply was lost is sent again: the same bytes get the same receipt.
const TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

/// A phone with the app installed and nobody's account in it: a name, a push target and a new key.
#[derive(Clone, Debug)]
pub struct NewPhone {
    name: String,
    push_target: PushTarget,
    key: Arc<Key>,
}

/// What binds the phone's key, signed: the same bytes however often they are sent.
pub struct Claim {
    phone: NewPhone,
    broker: Arc<Broker>,
    envelope: v1::Envelope,
}

/// Why a phone could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// What answers at the address is not believed.
    #[error(transparent)]
    NotTheBroker(#[from] NotTheBroker),
    /// The broker does not take the claim.
    #[error("the broker does not enrol this phone: {0}")]
    Refused(#[from] Refusal),
    /// The broker's receipt does not fit the claim.
    #[error("the broker's receipt is not to be believed: {0}")]
    Receipt(NotShown),
    /// The trial that came with the receipt is not shown.
    #[error("the broker's trial is not to be believed: {0}")]
    Trial(NotShown),
}

impl NewPhone {
    /// A phone with a new key.
    pub fn new(name: impl Into<String>, push_target: PushTarget, algorithm: Algorithm) -> Self {
        Self { name: name.into(), push_target, key: Arc::new(Key::generate(algorithm)) }
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Enrols it: asks the broker who it is, binds the key, checks the receipt and the trial that comes with it.
    pub async fn enrol(
        &self,
        transport: &Transport,
        invitation: &Invitation,
        now: Timestamp,
    ) -> Result<(Phone, Trial), EnrolError> {
        let broker = invitation.broker(transport).await?;
        self.enrol_with(transport, &broker, invitation.code(), now).await
    }

    /// The same with a broker that is known already.
    pub async fn enrol_with(
        &self,
        transport: &Transport,
        broker: &Arc<Broker>,
        code: &EnrolmentCode,
        now: Timestamp,
    ) -> Result<(Phone, Trial), EnrolError> {
        let claim = self.claim(broker, code);
        let mut tries = 1;
        loop {
            match claim.complete(transport).await {
                Ok(reply) => return claim.check(&reply, now),
                Err(refusal) if refusal.is_lost() && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Makes the claim for this code.
    pub fn claim(&self, broker: &Arc<Broker>, code: &EnrolmentCode) -> Claim {
        let message = self.claim_message(broker, code);
        let envelope =
            self.key.envelope(code.locator(), payload_type::ENROLMENT_CLAIM, message.encode_to_vec());
        Claim { phone: self.clone(), broker: Arc::clone(broker), envelope }
    }

    /// What a claim says, before it is signed: to change it first.
    pub fn claim_message(&self, broker: &Broker, code: &EnrolmentCode) -> v1::EnrolmentClaim {
        let public = self.key.public_key();
        let broker_key = broker.key().as_bytes();
        let platform = match self.push_target.platform() {
            Platform::Ios => v1::Platform::Ios,
            Platform::Android => v1::Platform::Android,
        };
        let mut nonce = vec![0; 16];
        entropy::fill(&mut nonce);
        v1::EnrolmentClaim {
            broker_id: broker.id().to_owned(),
            locator: code.locator().to_owned(),
            secret_mac: code.secret().mac(code.locator(), broker_key, public.as_bytes()).to_vec().into(),
            broker_key: broker_key.to_vec().into(),
            authenticator_key: Some(self.key.public_message()),
            platform: platform.into(),
            push_target: Some(self.push_target.to_message()),
            device_name: self.name.clone(),
            nonce: nonce.into(),
        }
    }
}

impl Claim {
    /// What is sent.
    pub fn envelope(&self) -> &v1::Envelope {
        &self.envelope
    }

    /// Sends it.
    pub async fn complete(&self, transport: &Transport) -> Result<v1::CompleteEnrolmentReply, Refusal> {
        let request = v1::CompleteEnrolmentRequest { claim: Some(self.envelope.clone()) };
        Ok(transport.authenticators().complete_enrolment(request).await?.into_inner())
    }

    /// Checks what came back, and becomes the phone that it made.
    pub fn check(
        &self,
        reply: &v1::CompleteEnrolmentReply,
        now: Timestamp,
    ) -> Result<(Phone, Trial), EnrolError> {
        let receipt = self.check_receipt(reply.receipt.as_ref()).map_err(EnrolError::Receipt)?;
        let envelope = reply.trial.as_ref().ok_or(EnrolError::Trial(NotShown::Missing))?;
        let whom = (receipt.authenticator_id.as_str(), receipt.account_name.as_str());
        let trial = self.broker.check_trial(envelope, whom, now).map_err(EnrolError::Trial)?;
        if trial.enrolment_id() != receipt.enrolment_id {
            return Err(EnrolError::Trial(NotShown::OtherSubject));
        }
        Ok((self.phone(receipt), trial))
    }

    fn check_receipt(&self, envelope: Option<&v1::Envelope>) -> Result<v1::EnrolmentReceipt, NotShown> {
        let envelope = envelope.ok_or(NotShown::Missing)?;
        let receipt: v1::EnrolmentReceipt = self.broker.open(envelope, payload_type::ENROLMENT_RECEIPT)?;
        self.broker.check_sender(&receipt.broker_id)?;
        if broker_key(receipt.broker_key.as_ref()).as_ref() != Some(self.broker.key()) {
            return Err(NotShown::OtherKey);
        }
        if receipt.claim_hash != sha256(&self.envelope.payload)[..] {
            return Err(NotShown::OtherSubject);
        }
        if receipt.authenticator_id.is_empty() || receipt.enrolment_id.is_empty() {
            return Err(NotShown::Malformed("it gives no authenticator id or no enrolment id"));
        }
        check::shown("account_name", &receipt.account_name, NAME_CHARACTERS_MAX)?;
        Ok(receipt)
    }

    fn phone(&self, receipt: v1::EnrolmentReceipt) -> Phone {
        Phone {
            name: self.phone.name.as_str().into(),
            key: Arc::clone(&self.phone.key),
            broker: Arc::clone(&self.broker),
            authenticator_id: receipt.authenticator_id.into(),
            account_name: receipt.account_name.into(),
            realm: receipt.realm.into(),
            state: Mutex::new(State {
                push_target: self.phone.push_target.clone(),
                counter: receipt.counter,
                nonce: receipt.nonce,
                is_active: false,
                notices_until: Timestamp(0),
                remembered: Vec::new(),
            }),
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("phone", &self.phone.name)
            .field("locator", &self.envelope.key_id)
            .finish_non_exhaustive()
    }
}
