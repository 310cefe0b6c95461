//! A push service behind the broker's trait: slow, away, forgetful of its answers, and sometimes saying things twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use countersign::push::{self, Accepted, PushKind, PushMessage, PushService, QueueSettings, Service};
use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use tokio::sync::mpsc;

use crate::{chance::Chance, mutation::Mutation, witness::Witness};

/// What arrives at a phone, and how long it was under way.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) after: Duration,
    pub(crate) message: PushMessage,
}

/// See above. It outlives brokers.
pub(crate) struct Post {
    chance: Mutex<Chance>,
    phones: Mutex<BTreeMap<String, mpsc::UnboundedSender<Delivered>>>,
    witness: Witness,
    mutation: Option<Mutation>,
}

impl Post {
    pub(crate) fn new(seed: u64, witness: Witness, mutation: Option<Mutation>) -> Arc<Self> {
        let chance = Mutex::new(Chance::of("the push service", seed));
        Arc::new(Self { chance, phones: Mutex::default(), witness, mutation })
    }

    /// A phone's target, and what is pushed to it.
    pub(crate) fn register(&self, target: &str) -> mpsc::UnboundedReceiver<Delivered> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.phones.lock().expect("nobody panics").insert(target.to_owned(), sender);
        receiver
    }

    /// As the broker has it configured.
    pub(crate) fn service(self: &Arc<Self>) -> Service {
        let attempt_timeout_ms = 2_000.try_into().expect("not zero");
        let queue = QueueSettings { attempt_timeout_ms, ..QueueSettings::default() };
        let connections = vec![Arc::clone(self) as _, Arc::clone(self) as _];
        Service { kind: PushServiceKind::Fcm, connections, queue, credentials: None }
    }

    fn deliver(&self, target: &PushTarget, delivered: Delivered) {
        if let Some(phone) = self.phones.lock().expect("nobody panics").get(target.token()) {
            // A phone that is not there any more gets nothing.
            let _ = phone.send(delivered);
        }
    }
}

#[async_trait]
impl PushService for Post {
    async fn send(
        &self,
        target: &PushTarget,
        message: &PushMessage,
        _: Timestamp,
    ) -> Result<Accepted, push::Error> {
        let is_challenge = message.kind == PushKind::Challenge;
        if is_challenge && self.mutation == Some(Mutation::NotPushed) {
            return Ok(Accepted { push_id: message.id.clone() });
        }
        if is_challenge {
            self.witness.pushed(&message.id, target.token());
        }
        let (pause, after, fate) = {
            let mut chance = self.chance.lock().expect("nobody panics");
            let pause = if chance.happens(3) { 3_000..=5_000 } else { 5..=200 };
            (chance.millis(pause), chance.millis(10..=1_500), chance.number(0..=99))
        };
        let shown = if self.mutation == Some(Mutation::NumberInPush) {
            self.witness.any_number().unwrap_or_default()
        } else {
            message.id.clone()
        };
        let others = (&message.authenticator_id, &message.acknowledgement_token, &message.nonce);
        self.witness.text("a push", format!("{:?} {shown} {others:?}", message.kind));
        tokio::time::sleep(pause).await;
        let delivered = Delivered { after, message: message.clone() };
        match fate {
            0..80 => self.deliver(target, delivered),
            80..84 => (0..2).for_each(|_| self.deliver(target, delivered.clone())),
            84..88 => {
                let after = (fate % 2 == 0).then_some(Duration::from_secs(1));
                return Err(push::Error::Retry { reason: "INTERNAL".to_owned(), after });
            }
            88..96 => {
                if fate % 2 == 0 {
                    self.deliver(target, delivered);
                }
                return Err(push::Error::Unreachable { reason: "the connection broke".to_owned() });
            }
            96..99 => return Err(push::Error::Refused { reason: "INVALID_ARGUMENT".to_owned() }),
            _ => return Err(push::Error::Dead { reason: "UNREGISTERED".to_owned(), since: None }),
        }
        Ok(Accepted { push_id: message.id.clone() })
    }
}
