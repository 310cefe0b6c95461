//! A phone claims a code with its new key. If it knows the secret, it is bound and gets its trial.

use countersign_domain::{
    Account, AuthenticatorId, Command, EnrolmentId, Timestamp, call,
    challenge::trial_challenge,
    claim::VerifiedClaim,
    command::Refusal,
    enrolment::Stage,
    event::{Question, SignedMessage},
    number::{MatchNumber, Salt},
};
use countersign_envelope::payload_type;
use countersign_proto::v1;
use prost::Message;

use super::{Enrol, Error};

/// What a phone that was bound is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The receipt.
    pub receipt: SignedMessage,
    /// The trial.
    pub trial: SignedMessage,
}

impl Enrol {
    /// Binds the key of a claim. Unknown, used, expired and wrong codes are refused alike
    /// ([`Refusal::EnrolmentNotWaiting`]); a wrong one is counted before it is refused.
    pub async fn bind(&self, envelope: &v1::Envelope) -> Result<Bound, Error> {
        let sign_in = &self.sign_in;
        let claim = VerifiedClaim::verify(sign_in.keys.broker_id(), envelope)?;
        let enrolment =
            sign_in.models.index.enrolment(claim.locator()).ok_or(Refusal::EnrolmentNotWaiting)?;
        let account = enrolment.account();
        let authenticator =
            call::new_authenticator(account, claim.key().algorithm(), sign_in.entropy.bytes());
        let broker_key = sign_in.keys.public_key().as_bytes().to_vec();
        let decided = sign_in
            .accounts
            .decide(account, |account, now| {
                let question = self.question(account, enrolment, authenticator, now)?;
                Ok::<_, Error>(Command::CompleteEnrolment {
                    enrolment,
                    claim: claim.clone(),
                    broker_key: broker_key.clone(),
                    authenticator,
                    question,
                })
            })
            .await?;
        let bound = decided.state.enrolment(enrolment).map(|one| &one.stage);
        match bound {
            Some(Stage::OnTrial { authenticator, question })
                if is_of(&decided.state, *authenticator, &claim) =>
            {
                let receipt = self.receipt(&decided.state, enrolment, *authenticator, &claim);
                Ok(Bound { receipt, trial: question.challenge.clone() })
            }
            _ => Err(Refusal::EnrolmentNotWaiting.into()),
        }
    }

    fn question(
        &self,
        account: &Account,
        id: EnrolmentId,
        authenticator: AuthenticatorId,
        now: Timestamp,
    ) -> Result<Question, Error> {
        let sign_in = &self.sign_in;
        let enrolment = account.enrolment(id).ok_or(Refusal::EnrolmentNotWaiting)?;
        let identity = account.identity().ok_or(Refusal::EnrolmentNotWaiting)?;
        let number = MatchNumber::draw(
            sign_in.policy.digits,
            |number| account.number_is_taken(number, now),
            || sign_in.entropy.bits(),
        );
        let salt = Salt::from_bytes(sign_in.entropy.bytes());
        let (payload, commitment) = trial_challenge(
            sign_in.keys.broker_id(),
            identity,
            (id, authenticator),
            (number, &salt),
            (now, enrolment.expires_at),
        );
        let challenge = sign_in.keys.sign(payload_type::TRIAL_CHALLENGE, payload);
        Ok(Question { number, salt, commitment, challenge })
    }

    fn receipt(
        &self,
        account: &Account,
        enrolment: EnrolmentId,
        authenticator: AuthenticatorId,
        claim: &VerifiedClaim,
    ) -> SignedMessage {
        let keys = &self.sign_in.keys;
        let identity = account.identity();
        let receipt = v1::EnrolmentReceipt {
            broker_id: keys.broker_id().to_owned(),
            broker_key: Some(v1::PublicKey {
                algorithm: v1::SignatureAlgorithm::Ed25519.into(),
                key: keys.public_key().as_bytes().to_vec().into(),
            }),
            authenticator_id: authenticator.to_string(),
            account_name: identity.map(|one| one.name.to_string()).unwrap_or_default(),
            realm: identity.map(|one| one.realm.to_string()).unwrap_or_default(),
            claim_hash: claim.payload_hash().to_vec().into(),
            counter: 0,
            nonce: keys.nonces.next(self.sign_in.clock.now()),
            enrolment_id: enrolment.to_string(),
        };
        keys.sign(payload_type::ENROLMENT_RECEIPT, receipt.encode_to_vec())
    }
}

fn is_of(account: &Account, authenticator: AuthenticatorId, claim: &VerifiedClaim) -> bool {
    account.authenticator(authenticator).is_some_and(|one| one.claim_hash == claim.hash())
}
