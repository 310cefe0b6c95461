//! One sign-in, at the page.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Progress,
    mix::Part,
    pace::now,
    people::{Desk, Order, PhoneView},
    record::Record,
};
use crate::{
    clock::Clock,
    login::{LoginServer, News, SignIn, Step, Update},
    phone::Profile,
};

/// A phone that has not answered so long after the page had its outcome will not any more.
const PHONE_MAX: Duration = Duration::from_secs(30);

/// A sign-in to be.
pub(super) struct Attempt {
    pub(super) part: Part,
    pub(super) due: Instant,
    pub(super) lifetime: Duration,
    /// Whether the phone goes on when the broker is away.
    pub(super) survives: bool,
    /// Whether the page gives up when the broker does not take its request.
    pub(super) gives_up: bool,
    pub(super) account: String,
    pub(super) login: LoginServer,
    pub(super) application: Arc<str>,
    pub(super) desk: Desk,
    pub(super) clock: Clock,
    pub(super) progress: Progress,
}

impl Attempt {
    /// From the request to the outcome, and until the phone has done its part.
    pub(super) async fn run(self) -> Record {
        let sign_in = SignIn::new(&self.account, &*self.application).lasting(self.lifetime);
        let (done, phone) = oneshot::channel();
        let mut order = Some(Order {
            profile: self.part.profile,
            // Who thinks for longer than the challenge lasts is another profile: `late`.
            think: self.part.think.min(self.lifetime / 2),
            patience: if self.survives { self.lifetime } else { Duration::ZERO },
            progress: self.progress.clone(),
            done,
        });
        let (mut approval_id, mut to_number) = (None, None);
        let mut told = |update: &Update| {
            if let (Step::Issued(issued), Some(order)) = (&update.step, order.take()) {
                to_number = Some(self.due.elapsed());
                self.desk.give(&issued.approval_id, Arc::new(order.with(issued.number.clone())));
                approval_id = Some(Box::<str>::from(&*issued.approval_id));
            }
        };
        let ended = if self.gives_up {
            self.login.ask_once(&sign_in, &self.clock, told).await
        } else {
            let news = |news: News<'_>| match news {
                News::Update(update) => told(update),
                News::Away(refusal) => self.progress.one_sent_away("page", refusal),
                News::There => {}
            };
            self.login.follow_to_outcome(&sign_in, &self.clock, news).await
        };
        let outcome_at = now();
        // A page that has no number gives none: nobody waits for its phone.
        drop(order);
        let view = tokio::time::timeout(PHONE_MAX, phone).await.ok().and_then(Result::ok);
        if let Some(id) = &approval_id {
            self.desk.forget(id);
        }
        let (phone, phone_failed, answered_at) = match view {
            Some(PhoneView { played, failed, answered_at }) => (played, failed, answered_at),
            None if self.part.profile == Profile::Ignore => (None, None, None),
            None => (None, Some("it never heard of it".into()), None),
        };
        let is_decided_by_phone =
            !matches!(self.part.profile, Profile::Ignore | Profile::Late | Profile::Forged);
        Record {
            part: self.part,
            approval_id,
            is_for_its_session: ended.as_ref().is_ok_and(|outcome| outcome.is_for(&sign_in.session_binding)),
            login: ended.map(|outcome| outcome.kind()),
            phone,
            phone_failed,
            due: self.due,
            to_number,
            answer_to_outcome: answered_at
                .filter(|_| is_decided_by_phone)
                .map(|answered| outcome_at.duration_since(answered)),
            to_outcome: Some(outcome_at.duration_since(self.due)),
        }
    }
}
