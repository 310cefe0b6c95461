//! How often somebody may call, by what is known of him at each step: his address at first, then who he has proved to be.
//! (What a device may, `signin` counts: only there is its signature known to be good.)

use std::net::IpAddr;

use countersign_domain::{call, command::Refusal};
use tonic::{Request, Status};

use super::{Services, status};
use crate::{
    api::{
        auth::{self, Caller},
        listen::Peer,
    },
    signin::Error,
};

/// Whose address a call comes from; nobody's on a Unix socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin(Option<IpAddr>);

impl Services {
    /// Somebody is about to prove who he is; not if too many at his address have failed to. What a check costs is saved,
    /// and all who fail are told the same.
    pub(super) fn somebody<T>(&self, request: &Request<T>) -> Result<Origin, Status> {
        let from = request.extensions().get::<Peer>().and_then(Peer::network);
        from.map_or(Ok(()), |from| self.rates.proves(from)).map_err(|error| status::too_often(&error))?;
        Ok(Origin(from))
    }

    /// The same of a phone; many of them can be behind one address.
    pub(super) fn some_phone<T>(&self, request: &Request<T>) -> Result<Origin, Status> {
        let from = self.somebody(request)?;
        self.anybody(request)?;
        Ok(from)
    }

    /// A phone that has nothing to prove.
    pub(super) fn anybody<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let from = request.extensions().get::<Peer>().and_then(Peer::network);
        from.map_or(Ok(()), |from| self.rates.calls(from)).map_err(|error| status::too_often(&error))
    }

    /// A relying party begins something.
    pub(super) fn begins(&self, caller: &Caller) -> Result<(), Status> {
        self.rates.begins(caller.id).map_err(|error| status::too_often(&error))
    }

    /// A login server or an enrolling page has not proved who it is.
    pub(super) fn not_let_in(&self, from: Origin, error: auth::Error) -> Status {
        if matches!(error, auth::Error::Missing | auth::Error::Invalid) {
            self.failed(from);
        }
        status::of_auth(error)
    }

    /// A phone may not have proved who it is.
    pub(super) fn if_failed(&self, from: Origin, error: &Error) {
        let failed = matches!(
            error,
            Error::AcknowledgementInvalid
                | Error::Call(call::Error::Unauthentic)
                // On the way to a phone, one is told as the other.
                | Error::Refused(Refusal::UnknownAuthenticator | Refusal::EnrolmentNotWaiting)
        );
        if failed {
            self.failed(from);
        }
    }

    fn failed(&self, from: Origin) {
        if let Some(from) = from.0 {
            self.rates.failed(from);
        }
    }
}
