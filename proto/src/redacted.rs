//! `Debug` for the messages that hold secrets: everything but those, so that no log line or panic can give them away.

use std::fmt;

use crate::v1;

macro_rules! redacted {
    ($($message:ty, $name:literal: $($field:ident),+;)+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)$(.field(stringify!($field), &self.$field))+.finish_non_exhaustive()
            }
        }
    )+};
}

redacted! {
    // Its payload may be an answer, and so hold a number.
    v1::Envelope, "Envelope": payload_type, key_id;
    v1::EnrolmentClaim, "EnrolmentClaim": broker_id, locator, platform;
    v1::Issued, "Issued": approval_id, expires_at, authenticators_addressed;
    v1::Answer, "Answer": broker_id, approval_id, authenticator_id, decision, user_verified;
    v1::TrialAnswer, "TrialAnswer": broker_id, enrolment_id, authenticator_id;
    v1::AcknowledgeRequest, "AcknowledgeRequest": kind, approval_id, authenticator_id;
    v1::BeginEnrolmentReply, "BeginEnrolmentReply": enrolment_id, address, expires_at;
    v1::enrolment_update::Trial, "Trial": authenticator_id, device_name, platform, expires_at;
    v1::IssueCredentialReply, "IssueCredentialReply": credential_id;
}

impl fmt::Debug for v1::PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.service {
            Some(v1::push_target::Service::ApnsDeviceToken(_)) => "PushTarget(APNs)",
            Some(v1::push_target::Service::FcmRegistrationToken(_)) => "PushTarget(FCM)",
            None => "PushTarget(none)",
        })
    }
}

impl fmt::Debug for v1::push_target::Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApnsDeviceToken(_) => "ApnsDeviceToken",
            Self::FcmRegistrationToken(_) => "FcmRegistrationToken",
        })
    }
}

// prost leaves `Debug` out of what is nested in such a message, too.
impl fmt::Debug for v1::acknowledge_request::Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_does_not_print_its_secret() {
        let issued = v1::Issued { match_number: "4711".to_owned(), ..Default::default() };
        let update = v1::ApprovalUpdate {
            update: Some(v1::approval_update::Update::Issued(issued)),
            ..Default::default()
        };
        assert!(!format!("{update:?}").contains("4711"));
        let reply = v1::IssueCredentialReply { api_key: "csk_secret".to_owned(), ..Default::default() };
        assert!(!format!("{reply:?}").contains("csk_secret"));
    }
}
