//! The closed sets that labels are of. No account, approval, address or token is ever one, and neither is a relying party:
//! how many of those there are, nobody bounds.

use countersign_domain::{
    approval, event,
    event::{Platform, PushServiceKind, RefusedBecause},
};

use super::cells::Labels;

/// The value of a label as it is written.
pub fn text(label: impl Labels) -> &'static str {
    label.named().first().map_or("", |(_, text)| text)
}

/// A label and its values: each is written as the text beside it.
macro_rules! label {
    ($(#[doc = $about:literal])+ $name:ident is $label:literal { $($value:ident = $text:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the text of a value says what it is")]
        pub enum $name {
            $($value,)+
        }

        impl Labels for $name {
            const COUNT: usize = [$($text),+].len();

            fn index(self) -> usize {
                self as usize
            }

            fn all() -> Vec<Self> {
                vec![$(Self::$value),+]
            }

            fn named(self) -> Vec<(&'static str, &'static str)> {
                vec![($label, match self { $(Self::$value => $text),+ })]
            }
        }
    };
}

label! {
    /// What came of a call for an approval.
    Requested is "result" {
        Issued = "issued",
        Refused = "refused",
        Repeated = "repeated",
        UnknownAccount = "unknown_account",
        Rejected = "rejected",
        TooManyLive = "too_many_live",
        TooManyLiveOfRelyingParty = "too_many_live_of_relying_party",
        Overloaded = "overloaded",
        RateLimited = "rate_limited",
        Failed = "failed",
    }
}

label! {
    /// How an approval ended.
    Outcome is "outcome" {
        Approved = "approved",
        Denied = "denied",
        Reported = "reported",
        WrongNumber = "wrong_number",
        Expired = "expired",
        Cancelled = "cancelled",
        Superseded = "superseded",
        Unreachable = "unreachable",
        TooManyWaiting = "too_many_waiting",
        PushPaused = "push_paused",
        NumbersExhausted = "numbers_exhausted",
        TooManyRequests = "too_many_requests",
    }
}

label! {
    /// What came of an answer to an approval.
    Answered is "result" {
        Approved = "approved",
        Denied = "denied",
        Reported = "reported",
        WrongNumber = "wrong_number",
        Late = "late",
        Invalid = "invalid",
        Failed = "failed",
    }
}

label! {
    /// How far a push has come, as pages are told.
    Progress is "step" {
        Accepted = "accepted",
        Delayed = "delayed",
        Failed = "failed",
        Delivered = "delivered",
        Opened = "opened",
    }
}

label! {
    /// A step of an enrolment.
    Enrolling is "step" {
        Begun = "begun",
        CodeRefused = "code_refused",
        Bound = "bound",
        Trial = "trial",
    }
}

label! {
    /// How an enrolment ended.
    Enrolled is "ending" {
        Active = "active",
        CodeRefused = "code_refused",
        Expired = "expired",
        WrongNumber = "wrong_number",
        Declined = "declined",
        Cancelled = "cancelled",
        Revoked = "revoked",
    }
}

label! {
    /// What a phone runs.
    Runs is "platform" {
        Ios = "ios",
        Android = "android",
    }
}

label! {
    /// Who ended an authenticator.
    Revoker is "by" {
        Itself = "itself",
        RelyingParty = "relying_party",
        Trial = "trial",
    }
}

label! {
    /// A push service.
    Service is "service" {
        Apns = "apns",
        Fcm = "fcm",
    }
}

label! {
    /// What a push service said to one attempt.
    Attempted is "result" {
        Accepted = "accepted",
        Dead = "dead",
        Retry = "retry",
        Unreachable = "unreachable",
        Refused = "refused",
    }
}

label! {
    /// How a push ended.
    Pushed is "ending" {
        Accepted = "accepted",
        Failed = "failed",
        Expired = "expired",
        Dead = "dead",
        Withdrawn = "withdrawn",
    }
}

label! {
    /// Why a push was not even queued.
    NotQueued is "reason" {
        NoPushTarget = "no_push_target",
        QueueFull = "queue_full",
        NotConfigured = "not_configured",
    }
}

label! {
    /// Whether a credential could be made anew.
    Renewed is "result" {
        Made = "made",
        Failed = "failed",
    }
}

label! {
    /// What came of an append.
    Appended is "result" {
        Durable = "durable",
        Conflict = "conflict",
        NoRoom = "no_room",
        Busy = "busy",
        Refused = "refused",
        Stopped = "stopped",
    }
}

label! {
    /// Whether memory had the state that a decision needs.
    Remembered is "result" {
        Hit = "hit",
        Stale = "stale",
        Kept = "kept",
        Miss = "miss",
    }
}

label! {
    /// A listener.
    Listener is "listener" {
        Public = "public",
        Admin = "admin",
        Metrics = "metrics",
    }
}

label! {
    /// Why a connection came to nothing.
    Rejected is "reason" {
        TooManyOfAddress = "too_many_of_address",
        Handshake = "handshake",
        Silent = "silent",
        NotAccepted = "not_accepted",
    }
}

label! {
    /// What somebody called too often for.
    RateLimit is "limit" {
        RelyingParty = "relying_party",
        Address = "address",
        Failures = "failures",
        Device = "device",
    }
}

label! {
    /// Whether the collector took spans.
    Exported is "result" {
        Taken = "taken",
        Lost = "lost",
    }
}

label! {
    /// A gRPC method.
    Method is "method" {
        RequestApproval = "countersign.v1.Approvals/RequestApproval",
        WatchApproval = "countersign.v1.Approvals/WatchApproval",
        OpenApproval = "countersign.v1.Approvals/OpenApproval",
        WaitApproval = "countersign.v1.Approvals/WaitApproval",
        GetApproval = "countersign.v1.Approvals/GetApproval",
        CancelApproval = "countersign.v1.Approvals/CancelApproval",
        DescribeBroker = "countersign.v1.Authenticators/DescribeBroker",
        CompleteEnrolment = "countersign.v1.Authenticators/CompleteEnrolment",
        ListWaiting = "countersign.v1.Authenticators/ListWaiting",
        FetchChallenge = "countersign.v1.Authenticators/FetchChallenge",
        SubmitAnswer = "countersign.v1.Authenticators/SubmitAnswer",
        ReplacePushTarget = "countersign.v1.Authenticators/ReplacePushTarget",
        Acknowledge = "countersign.v1.Authenticators/Acknowledge",
        Unenrol = "countersign.v1.Authenticators/Unenrol",
        BeginEnrolment = "countersign.v1.Enrolments/BeginEnrolment",
        WatchEnrolment = "countersign.v1.Enrolments/WatchEnrolment",
        CancelEnrolment = "countersign.v1.Enrolments/CancelEnrolment",
        ListAuthenticators = "countersign.v1.Enrolments/ListAuthenticators",
        RevokeAuthenticator = "countersign.v1.Enrolments/RevokeAuthenticator",
        RegisterRelyingParty = "countersign.v1.Administration/RegisterRelyingParty",
        ListRelyingParties = "countersign.v1.Administration/ListRelyingParties",
        IssueCredential = "countersign.v1.Administration/IssueCredential",
        RevokeCredential = "countersign.v1.Administration/RevokeCredential",
        ReadLog = "countersign.v1.Administration/ReadLog",
        ArchiveLog = "countersign.v1.Administration/ArchiveLog",
        Reload = "countersign.v1.Administration/Reload",
        HealthCheck = "grpc.health.v1.Health/Check",
        HealthWatch = "grpc.health.v1.Health/Watch",
        Other = "other",
    }
}

label! {
    /// A gRPC status, by its name in gRPC's documentation. One that nobody waited for is cancelled.
    Code is "code" {
        Ok = "OK",
        Cancelled = "CANCELLED",
        Unknown = "UNKNOWN",
        InvalidArgument = "INVALID_ARGUMENT",
        DeadlineExceeded = "DEADLINE_EXCEEDED",
        NotFound = "NOT_FOUND",
        AlreadyExists = "ALREADY_EXISTS",
        PermissionDenied = "PERMISSION_DENIED",
        ResourceExhausted = "RESOURCE_EXHAUSTED",
        FailedPrecondition = "FAILED_PRECONDITION",
        Aborted = "ABORTED",
        OutOfRange = "OUT_OF_RANGE",
        Unimplemented = "UNIMPLEMENTED",
        Internal = "INTERNAL",
        Unavailable = "UNAVAILABLE",
        DataLoss = "DATA_LOSS",
        Unauthenticated = "UNAUTHENTICATED",
    }
}

impl Code {
    /// By its number on the wire; what is none is unknown.
    pub fn of(number: usize) -> Self {
        Self::all().get(number).copied().unwrap_or(Self::Unknown)
    }
}

impl Method {
    /// The path that it is called by, without the slash at its beginning.
    pub fn path(self) -> &'static str {
        text(self)
    }
}

impl From<&approval::Outcome> for Outcome {
    fn from(outcome: &approval::Outcome) -> Self {
        match outcome {
            approval::Outcome::Approved { .. } => Self::Approved,
            approval::Outcome::Denied => Self::Denied,
            approval::Outcome::Reported => Self::Reported,
            approval::Outcome::WrongNumber => Self::WrongNumber,
            approval::Outcome::Expired => Self::Expired,
            approval::Outcome::Cancelled => Self::Cancelled,
            approval::Outcome::Superseded => Self::Superseded,
            approval::Outcome::Refused(because) => (*because).into(),
        }
    }
}

impl From<RefusedBecause> for Outcome {
    fn from(because: RefusedBecause) -> Self {
        match because {
            RefusedBecause::Unreachable => Self::Unreachable,
            RefusedBecause::TooManyWaiting => Self::TooManyWaiting,
            RefusedBecause::PushPaused => Self::PushPaused,
            RefusedBecause::NumbersExhausted => Self::NumbersExhausted,
            RefusedBecause::TooManyRequests => Self::TooManyRequests,
        }
    }
}

impl From<event::EnrolmentEnd> for Enrolled {
    fn from(reason: event::EnrolmentEnd) -> Self {
        match reason {
            event::EnrolmentEnd::CodeRefused => Self::CodeRefused,
            event::EnrolmentEnd::Expired => Self::Expired,
            event::EnrolmentEnd::WrongNumber => Self::WrongNumber,
            event::EnrolmentEnd::Declined => Self::Declined,
            event::EnrolmentEnd::Cancelled => Self::Cancelled,
            event::EnrolmentEnd::Revoked => Self::Revoked,
        }
    }
}

impl From<event::RevokedBy> for Revoker {
    fn from(by: event::RevokedBy) -> Self {
        match by {
            event::RevokedBy::Unenrolment { .. } => Self::Itself,
            event::RevokedBy::RelyingParty(_) => Self::RelyingParty,
            event::RevokedBy::Trial => Self::Trial,
        }
    }
}

impl From<Platform> for Runs {
    fn from(platform: Platform) -> Self {
        match platform {
            Platform::Ios => Self::Ios,
            Platform::Android => Self::Android,
        }
    }
}

impl From<PushServiceKind> for Service {
    fn from(kind: PushServiceKind) -> Self {
        match kind {
            PushServiceKind::Apns => Self::Apns,
            PushServiceKind::Fcm => Self::Fcm,
        }
    }
}
