//! Whether the page, the phone and the log agree about each sign-in, and with what it was to be.

use std::fmt;

use countersign_proto::v1::OutcomeKind;

use super::{
    logged::Logged,
    record::{Outage, Record},
};
use crate::phone::Profile;

/// Something that should not be.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Which approval, if it got so far.
    pub approval_id: Option<Box<str>>,
    /// What the phone was to do.
    pub profile: Profile,
    /// What is wrong.
    pub what: String,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// One for each sign-in that is not as it should be.
    pub mismatches: Vec<Mismatch>,
    /// Sign-ins that waited in an outage and expired before the broker heard the answer: page, phone and log agree.
    pub expired_by_kill: u64,
}

/// Compares these sign-ins. Of one that waited in an outage the answer may have come too late.
pub fn compare<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    logged: &Logged,
    outages: &[Outage],
) -> Compared {
    let mut compared = Compared::default();
    for record in records {
        match check(record, logged, outages) {
            Ok(Verdict::AsItShould) => {}
            Ok(Verdict::ExpiredByKill) => compared.expired_by_kill += 1,
            Err(what) => compared.mismatches.push(Mismatch {
                approval_id: record.approval_id.clone(),
                profile: record.part.profile,
                what,
            }),
        }
    }
    compared
}

enum Verdict {
    AsItShould,
    ExpiredByKill,
}

fn check(record: &Record, logged: &Logged, outages: &[Outage]) -> Result<Verdict, String> {
    let profile = record.part.profile;
    let login = match &record.login {
        Ok(outcome) => *outcome,
        Err(refusal) => return Err(format!("the page has no outcome: {refusal}")),
    };
    let without_number = || format!("the page was told {}, and no number before", name(login));
    let id = record.approval_id.as_deref().ok_or_else(without_number)?;
    match logged.endings(id) {
        [] => return Err(format!("the page was told {}, and the log has no ending", name(login))),
        [logged] if *logged != login => {
            return Err(format!("the page was told {}, the log says {}", name(login), name(*logged)));
        }
        [_] => {}
        several => return Err(format!("the log has {} endings", several.len())),
    }
    if !record.is_for_its_session {
        return Err("the outcome is for another browser session".to_owned());
    }
    if login == profile.outcome() {
        return phone(record).map(|()| Verdict::AsItShould);
    }
    let may_expire = outages.iter().any(|outage| outage.meets(record));
    if may_expire && login == OutcomeKind::Expired && has_heard_nothing_else(record) {
        return Ok(Verdict::ExpiredByKill);
    }
    Err(format!("it ended as {}, and should have been {}", name(login), name(profile.outcome())))
}

fn phone(record: &Record) -> Result<(), String> {
    match (&record.phone, &record.phone_failed) {
        (_, Some(why)) => Err(format!("the phone did nothing: {why}")),
        (Some(played), None) if played.is_as_it_must_be() => Ok(()),
        (Some(played), None) => {
            let said: Vec<_> =
                played.said.iter().map(|said| format!("{}: {:?}", said.what, said.reply)).collect();
            Err(format!("the phone was told something else than it should: {}", said.join("; ")))
        }
        (None, None) if record.part.profile == Profile::Ignore => Ok(()),
        (None, None) => Err("the phone did nothing".to_owned()),
    }
}

/// No answer of the phone was taken: it heard nothing, or that it came too late.
fn has_heard_nothing_else(record: &Record) -> bool {
    record.phone.as_ref().is_none_or(|played| played.said.iter().all(|said| said.reply.is_err()))
}

fn name(kind: OutcomeKind) -> &'static str {
    super::record::outcome_name(kind)
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.approval_id.as_deref().unwrap_or("(no approval)");
        write!(f, "{id}, {}: {}", self.profile, self.what)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        load::{mix::Part, pace::now},
        phone::profile::{Played, Said},
    };

    fn record(profile: Profile) -> Record {
        let outcome = profile.outcome();
        let said = vec![Said { what: "it", reply: Ok(outcome) }];
        Record {
            part: Part { who: 0, profile, think: Duration::ZERO },
            approval_id: Some("a".into()),
            login: Ok(outcome),
            is_for_its_session: true,
            phone: Some(Played { profile, said }),
            phone_failed: None,
            due: now(),
            to_number: None,
            answer_to_outcome: None,
            to_outcome: None,
        }
    }

    fn logged(events: &str) -> Logged {
        let mut logged = Logged::default();
        logged.add(&format!(r#"{{"events":[{events}]}}"#)).unwrap();
        logged
    }

    const APPROVED: &str = r#"{"type":"ApprovalApproved","approval":"a"}"#;
    const EXPIRED: &str = r#"{"type":"ApprovalExpired","approval":"a"}"#;

    const SECOND: Duration = Duration::from_secs(1);

    /// So long before and after the sign-in was due.
    fn outage(record: &Record, from: Duration, until: Duration) -> Outage {
        Outage { from: record.due + from, until: record.due + until }
    }

    fn said(record: &Record, events: &str, outages: &[Outage]) -> String {
        let compared = compare([record], &logged(events), outages);
        compared.mismatches.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_agrees_on_all_three_sides_is_no_mismatch() {
        assert_eq!(said(&record(Profile::Approve), APPROVED, &[]), "");
        let denied = r#"{"type":"ApprovalDenied","approval":"a","reported":true}"#;
        assert_eq!(said(&record(Profile::Report), denied, &[]), "");
    }

    #[test]
    fn each_side_that_differs_is_one() {
        let approve = record(Profile::Approve);
        assert!(said(&approve, "", &[]).contains("the log has no ending"));
        assert!(said(&approve, EXPIRED, &[]).contains("the log says expired"));
        assert!(said(&approve, &format!("{APPROVED},{EXPIRED}"), &[]).contains("2 endings"));

        let mut another = approve.clone();
        another.is_for_its_session = false;
        assert!(said(&another, APPROVED, &[]).contains("another browser session"));

        let mut deaf = approve.clone();
        deaf.phone = None;
        assert!(said(&deaf, APPROVED, &[]).contains("the phone did nothing"));

        let mut lied_to = approve;
        lied_to.phone.as_mut().unwrap().said[0].reply = Ok(OutcomeKind::Denied);
        assert!(said(&lied_to, APPROVED, &[]).contains("told something else"));
    }

    #[test]
    fn a_sign_in_that_ends_otherwise_than_its_profile_is_one_even_if_all_agree() {
        let mut approved = record(Profile::Deny);
        approved.login = Ok(OutcomeKind::Approved);
        let outage = outage(&approved, Duration::ZERO, SECOND);
        assert!(said(&approved, APPROVED, &[outage]).contains("should have been denied"));
    }

    #[test]
    fn of_a_sign_in_that_met_an_outage_the_answer_may_come_too_late() {
        let mut late = record(Profile::Approve);
        late.login = Ok(OutcomeKind::Expired);
        late.phone = None;
        late.to_outcome = Some(10 * SECOND);
        let met = [outage(&late, 9 * SECOND, 12 * SECOND)];
        let compared = compare([&late], &logged(EXPIRED), &met);
        assert_eq!((compared.mismatches.len(), compared.expired_by_kill), (0, 1));
        for others in [&[][..], &[outage(&late, 11 * SECOND, 12 * SECOND)]] {
            assert!(said(&late, EXPIRED, others).contains("should have been approved"));
        }
        let before = Outage { from: met[0].from, until: met[0].until };
        late.due = before.until + SECOND;
        assert!(said(&late, EXPIRED, &[before]).contains("should have been approved"));
        // But not if it was told that it was in time.
        late.due = before.from;
        late.phone = record(Profile::Approve).phone;
        assert!(said(&late, EXPIRED, &[before]).contains("should have been approved"));
    }
}
