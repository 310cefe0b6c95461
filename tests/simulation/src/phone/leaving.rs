//! A phone that leaves its account: from the reply on, nothing counts that it signs.

use countersign_envelope::payload_type;
use countersign_proto::v1::{self, enrolments_client::EnrolmentsClient};
use tonic::Code;

use super::{Phone, TRIES};
use crate::{
    calls::{helps_to_retry, said, with_key},
    stage::{REALM, lock, pause},
};

/// Whether it is an authenticator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Is,
    /// That is asked for.
    Leaves,
    /// That is confirmed: nothing that it signs counts.
    HasLeft,
}

impl Phone {
    /// It was lost, and the relying party ends it; or the person wants no more of it.
    pub(super) async fn leave(&self) {
        let key = self.stage.credentials().await.enrolment;
        let was_lost = lock(&self.chance).happens(50);
        *lock(&self.stands) = Standing::Leaves;
        let unenrol = v1::UnenrolCall {
            broker_id: self.stage.keys.broker_id().to_owned(),
            authenticator_id: self.id.clone(),
            counter: 1,
        };
        let unenrol = v1::UnenrolRequest { call: Some(self.sign(payload_type::UNENROL, &unenrol)) };
        let revoke = v1::RevokeAuthenticatorRequest {
            account: Some(v1::AccountName { realm: REALM.to_owned(), name: self.account.clone() }),
            authenticator_id: self.id.clone(),
        };
        for _ in 0..TRIES {
            let done = if was_lost {
                let mut page = EnrolmentsClient::new(self.channel.clone());
                page.revoke_authenticator(with_key(revoke.clone(), &key)).await.map(drop)
            } else {
                self.broker().unenrol(unenrol.clone()).await.map(drop)
            };
            // Unknown already: it has left, and the reply was lost.
            let gone = done.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated && !was_lost);
            match done {
                Err(_) if gone => return self.has_left(),
                Ok(()) => return self.has_left(),
                Err(status) if helps_to_retry(&status) => self.hears(&status),
                Err(status) => {
                    return self.stage.witness.wrong(format!("{} leaves: {}", self.name, said(&status)));
                }
            }
            let after = lock(&self.chance).millis(200..=1_500);
            pause(after).await;
        }
    }

    fn has_left(&self) {
        self.stage.witness.note(format!("{} has left", self.name));
        self.stage.witness.left(&self.id);
        *lock(&self.stands) = Standing::HasLeft;
    }

    pub(super) fn stands(&self, so: Standing) -> bool {
        *lock(&self.stands) == so
    }
}
