//! An enrolling page asks for a code.

use countersign_domain::{
    AccountId, Command, EnrolmentId, RelyingPartyId, Timestamp, event::Identity, limits,
};
use countersign_envelope::{EnrolmentCode, EnrolmentUri};
use zeroize::Zeroizing;

use super::{Enrol, Error};

/// A code that waits, to show to the person who enrols.
pub struct Begun {
    /// Which enrolment.
    pub enrolment: EnrolmentId,
    /// For a QR code. It holds the code's secret.
    pub uri: Zeroizing<String>,
    /// To type. It holds the code's secret.
    pub code: Zeroizing<String>,
    /// The broker's address, to type.
    pub address: String,
    /// When all of it must be done.
    pub expires_at: Timestamp,
}

impl Enrol {
    /// Makes a code for a new phone of this account.
    pub async fn begin(
        &self,
        account: AccountId,
        identity: Identity,
        relying_party: RelyingPartyId,
    ) -> Result<Begun, Error> {
        let sign_in = &self.sign_in;
        let enrolment = EnrolmentId::new(account, sign_in.entropy.bytes());
        let code = self.code();
        let command = Command::BeginEnrolment { identity, enrolment, code: code.clone(), relying_party };
        let decided = sign_in.accounts.decide(account, |_, _| Ok::<_, Error>(command.clone())).await?;
        // Whoever has the code may use it at once, and is found by its locator.
        sign_in.models.index.knows(decided.position).await;
        let uri = EnrolmentUri {
            address: self.public_url.clone(),
            code: code.clone(),
            broker_fingerprint: sign_in.keys.public_key().fingerprint(),
        };
        Ok(Begun {
            enrolment,
            uri: uri.to_text(),
            code: code.to_text(),
            address: self.public_url.clone(),
            expires_at: decided.at.plus(limits::ENROLMENT_LIFETIME),
        })
    }

    /// A code whose locator no live enrolment has.
    fn code(&self) -> EnrolmentCode {
        loop {
            let code = EnrolmentCode::from_random(&self.sign_in.entropy.bytes());
            if self.sign_in.models.index.enrolment(code.locator()).is_none() {
                return code;
            }
        }
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("enrolment", &self.enrolment).finish_non_exhaustive()
    }
}
