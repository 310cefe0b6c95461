//! Bytes from the network, read as requests of login servers and enrolling pages. For the fuzzer: by what the services call,
//! and nothing else.

use std::time::Duration;

use countersign_domain::{AccountId, event::Identity};
use countersign_proto::v1;
use prost::{DecodeError, Message};
use tonic::Status;

use super::{approvals, enrolments, fields};
use crate::{api::auth::Caller, signin::request::NewRequest};

/// As `RequestApproval` and `OpenApproval` read them, where free text is allowed.
pub fn request_approval(
    caller: &Caller,
    bytes: &[u8],
    account_id: impl FnOnce(&Identity) -> AccountId,
) -> Result<Result<NewRequest, Status>, DecodeError> {
    let request = v1::RequestApprovalRequest::decode(bytes)?;
    Ok(approvals::new_request(caller, &request, true, account_id))
}

/// As `WaitApproval` reads how long to wait.
pub fn wait_approval(bytes: &[u8]) -> Result<Result<Duration, Status>, DecodeError> {
    let request = v1::WaitApprovalRequest::decode(bytes)?;
    Ok(fields::max_wait(request.max_wait.as_ref()))
}

/// As `BeginEnrolment` and `ListAuthenticators` read whose account it is.
pub fn begin_enrolment(caller: &Caller, bytes: &[u8]) -> Result<Result<Identity, Status>, DecodeError> {
    let request = v1::BeginEnrolmentRequest::decode(bytes)?;
    Ok(enrolments::identity(caller, request.account.as_ref()))
}
