//! What the broker signs to ask a phone. The bytes are made once and kept exactly; nobody encodes them again.

use countersign_envelope::commitment;
use countersign_proto::v1;
use prost::Message;

use crate::{
    AuthenticatorId, EnrolmentId, Timestamp,
    event::{Context, Identity, Request},
    number::{MatchNumber, Salt},
    text::DisplayText,
};

/// The names that a challenge shows beside what the request says.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The broker's id.
    pub broker_id: &'a str,
    /// Who the account is.
    pub account: &'a Identity,
    /// The relying party's registered name.
    pub relying_party: &'a DisplayText,
}

/// The payload of an approval's challenge, and the commitment in it.
pub fn challenge(
    names: Names<'_>,
    request: &Request,
    number: MatchNumber,
    salt: &Salt,
    now: Timestamp,
) -> (Vec<u8>, [u8; 32]) {
    let approval_id = request.approval.to_string();
    let commitment = commitment(&approval_id, salt.expose(), &number.to_text());
    let message = v1::Challenge {
        broker_id: names.broker_id.to_owned(),
        approval_id,
        account_name: names.account.name.to_string(),
        relying_party_name: names.relying_party.to_string(),
        application_name: request.application.to_string(),
        context: Some(context(&request.context)),
        session_binding: request.session_binding.clone(),
        commitment: commitment.to_vec().into(),
        digits: u32::from(number.digits()),
        issued_at: Some(timestamp(now)),
        expires_at: Some(timestamp(now.plus(request.policy.lifetime))),
    };
    (message.encode_to_vec(), commitment)
}

/// The payload of a trial's challenge, and the commitment in it.
pub fn trial_challenge(
    broker_id: &str,
    account: &Identity,
    (enrolment, authenticator): (EnrolmentId, AuthenticatorId),
    (number, salt): (MatchNumber, &Salt),
    (issued_at, expires_at): (Timestamp, Timestamp),
) -> (Vec<u8>, [u8; 32]) {
    let enrolment_id = enrolment.to_string();
    let commitment = commitment(&enrolment_id, salt.expose(), &number.to_text());
    let message = v1::TrialChallenge {
        broker_id: broker_id.to_owned(),
        enrolment_id,
        authenticator_id: authenticator.to_string(),
        account_name: account.name.to_string(),
        commitment: commitment.to_vec().into(),
        digits: u32::from(number.digits()),
        issued_at: Some(timestamp(issued_at)),
        expires_at: Some(timestamp(expires_at)),
    };
    (message.encode_to_vec(), commitment)
}

fn context(context: &Context) -> v1::Context {
    let text = |text: &Option<DisplayText>| text.as_ref().map(ToString::to_string).unwrap_or_default();
    v1::Context {
        source_ip: context.source_ip.map(|address| address.to_string()).unwrap_or_default(),
        place: text(&context.place),
        browser: text(&context.browser),
    }
}

/// A moment as protobuf has it.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000).expect("less than 1,000") * 1_000_000,
    }
}
