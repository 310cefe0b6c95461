//! What the phone asks, and what is typed.

use std::process::ExitCode;

use countersign_proto::v1::{self, OutcomeKind};
use device_sim::{
    phone::{AnswerBuilder, Asked, Challenge, Decision, Error, Phone, TrialAnswerBuilder},
    wire::Refusal,
};

use super::{Item, Next, SEND_EVERY, SEND_UNTIL_AFTER, Session};
use crate::commands::{phone::view::Event, terminal::advice};

impl Session {
    pub(super) fn ask_next(&mut self) -> anyhow::Result<()> {
        if self.asking.is_some() {
            return Ok(());
        }
        let Some(item) = self.queue.pop_front() else { return Ok(()) };
        let waiting = self.waiting.max(1 + self.queue.len());
        let now = self.clock.now();
        match &item.asked {
            Asked::SignIn(challenge) => self.view.show(&Event::Challenge { challenge, waiting }, now)?,
            Asked::Trial(trial) => self.view.show(&Event::Trial(trial), now)?,
        }
        self.view.ask(&item.asked, now)?;
        if let Some(push) = &item.push {
            self.acknowledge(push, true);
        }
        self.asking = Some(item);
        Ok(())
    }

    pub(super) async fn typed(&mut self, line: &str) -> anyhow::Result<Next> {
        let Some(item) = self.asking.take() else {
            if line == "l" {
                return self.list_ignored().await;
            }
            if !line.is_empty() {
                self.show(&Event::Error { problem: "Nothing waits for an answer." })?;
            }
            return Ok(Next::GoOn);
        };
        let is_number = line.len() == item.asked.digits() && line.bytes().all(|byte| byte.is_ascii_digit());
        let answer = match (&item.asked, line) {
            (Asked::SignIn(_), "") => {
                self.view.settle(true)?;
                self.settled.insert(item.asked.id().to_owned());
                self.ignored.insert(item.asked.id().to_owned());
                self.show(&Event::Ignored { asked: &item.asked })?;
                return Ok(Next::GoOn);
            }
            (Asked::SignIn(challenge), "d") => self.signed(challenge, Decision::Deny),
            (Asked::SignIn(challenge), "r") => self.signed(challenge, Decision::Report),
            (Asked::SignIn(challenge), number) if is_number => {
                self.signed(challenge, Decision::Approve { number })
            }
            (Asked::Trial(trial), "d") => TrialAnswerBuilder::new(&self.phone, trial, "").sign(),
            (Asked::Trial(trial), number) if is_number => {
                TrialAnswerBuilder::new(&self.phone, trial, number).sign()
            }
            (Asked::Trial(_), "") => {
                self.asking = Some(item);
                self.view.ask_again(self.clock.now())?;
                return Ok(Next::GoOn);
            }
            _ => {
                let more = if matches!(item.asked, Asked::Trial(_)) { "or d" } else { "d, r or nothing" };
                let problem = format!(
                    "That is no answer; nothing was sent. Type {} digits, {more}.",
                    item.asked.digits()
                );
                self.asking = Some(item);
                self.show(&Event::Error { problem: &problem })?;
                return Ok(Next::GoOn);
            }
        };
        self.view.settle(true)?;
        self.answer(item, answer).await
    }

    /// What was ignored and still waits is asked again.
    async fn list_ignored(&mut self) -> anyhow::Result<Next> {
        for id in std::mem::take(&mut self.ignored) {
            self.settled.remove(&id);
        }
        let next = self.look().await?;
        if self.queue.is_empty() && !self.is_unreachable {
            self.show(&Event::Error { problem: "Nothing waits for an answer." })?;
        }
        Ok(next)
    }

    fn signed(&self, challenge: &Challenge, decision: Decision<'_>) -> v1::Envelope {
        AnswerBuilder::new(&self.phone, challenge, decision).sign()
    }

    async fn answer(&mut self, item: Item, answer: v1::Envelope) -> anyhow::Result<Next> {
        let Item { asked, .. } = item;
        let reply = self.send(&asked, answer).await;
        self.settled.insert(asked.id().to_owned());
        self.waiting = self.waiting.saturating_sub(1);
        match reply {
            Ok(outcome) => {
                self.show(&Event::Answered { asked: &asked, outcome })?;
                if matches!(asked, Asked::Trial(_)) {
                    return self.tried(outcome);
                }
            }
            Err(refusal) => {
                let ended = Error::Refused(refusal.clone()).has_ended();
                match (ended, refusal.reason()) {
                    (Some(outcome), _) if self.phone.is_active() => {
                        self.show(&Event::Ended { id: asked.id(), outcome })?;
                    }
                    (Some(_), _) | (_, Some("SIGNATURE_INVALID")) => return self.removed(),
                    (None, _) => {
                        let problem = format!(
                            "The answer was not taken: {}",
                            advice(&refusal, self.transport.address())
                        );
                        self.show(&Event::Error { problem: &problem })?;
                    }
                }
            }
        }
        Ok(Next::GoOn)
    }

    fn tried(&mut self, outcome: OutcomeKind) -> anyhow::Result<Next> {
        if outcome == OutcomeKind::Approved {
            self.phone.save(&self.folder)?;
            self.view.show(&Event::Active(&self.phone), self.clock.now())?;
            self.ready()?;
            return Ok(Next::GoOn);
        }
        Phone::forget(&self.folder)?;
        Ok(Next::End(ExitCode::FAILURE))
    }

    /// Sends the same bytes until the broker has said something to them.
    async fn send(&mut self, asked: &Asked, answer: v1::Envelope) -> Result<OutcomeKind, Refusal> {
        let until = asked.expires_at().plus(SEND_UNTIL_AFTER);
        loop {
            let reply = match asked {
                Asked::SignIn(_) => self.phone.submit(&self.transport, answer.clone()).await,
                Asked::Trial(_) => self.phone.submit_trial(&self.transport, answer.clone()).await,
            };
            match reply {
                Err(refusal) if refusal.retry_helps() && self.clock.now() < until => {
                    tokio::time::sleep(refusal.retry_after().unwrap_or(SEND_EVERY)).await;
                }
                reply => return reply,
            }
        }
    }
}
