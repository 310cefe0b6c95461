//! What several stories need: asking and answering in one step, what a refusal must be, and the log as operators see it.

pub(crate) mod exposition;
pub(crate) mod frames;
pub(crate) mod ledger;
pub(crate) mod past;
pub(crate) mod pki;
pub(crate) mod raw;

use std::fmt::Debug;

use countersign_proto::v1::{self, OutcomeKind};
use countersign_tests::{
    Result, World,
    world::{self, EnrolledPhone, PATIENCE},
};
use device_sim::{
    login::{ApiKey, EnrollingPage, Issued, LoginServer, SignIn, Step, Update, Updates},
    phone::{
        self, Asked, Challenge, Decision, Invitation, NewPhone, Phone, Push, PushKind, PushTarget, Trial,
    },
    push_services::{self, Service},
    wire::Refusal,
};
use tonic::Code;

/// Another relying party beside the world's own.
pub(crate) struct Party {
    pub(crate) login: LoginServer,
    pub(crate) page: EnrollingPage,
}

/// Registers it, with a key of each scope.
pub(crate) async fn party(world: &World, name: &str, realm: &str) -> Result<Party> {
    let (_, sign_in, enrolment) = world::register(&world.broker, name, realm).await?;
    Ok(Party {
        login: LoginServer::new(&world.transport, Some(ApiKey::new(sign_in))),
        page: EnrollingPage::new(&world.transport, Some(ApiKey::new(enrolment))),
    })
}

/// A world whose broker has these settings instead of those that `init` writes.
pub(crate) async fn world_with(settings: &[(&str, &str)]) -> Result<World> {
    World::with_edited("", |text| set(&text, settings)).await
}

/// The configuration with these settings instead of those in it; of one that is not, instead of what it names as holding
/// without it.
pub(crate) fn set(text: &str, settings: &[(&str, &str)]) -> String {
    fn key_of(line: &str) -> &str {
        line.split('=').next().unwrap_or_default().trim()
    }
    let stands = |key: &str| text.lines().any(|line| key_of(line) == key);
    let mut found = vec![0; settings.len()];
    let lines = text.lines().map(|line| {
        let named = line.strip_prefix("# ").map(key_of).filter(|key| !stands(key));
        let key = named.unwrap_or(key_of(line));
        match settings.iter().position(|(name, _)| *name == key) {
            Some(at) => {
                found[at] += 1;
                format!("{key} = {}\n", settings[at].1)
            }
            None => format!("{line}\n"),
        }
    });
    let edited = lines.collect();
    assert!(found.iter().all(|times| *times == 1), "each of {settings:?} stands once in the configuration");
    edited
}

/// Kills the broker and starts it again.
pub(crate) async fn killed_and_started(world: &mut World) -> Result<()> {
    world.broker.kill()?;
    started(world).await
}

/// Starts the broker again. It is called once, so that no later call finds out that the connection was lost.
pub(crate) async fn started(world: &mut World) -> Result<()> {
    world.broker.start()?;
    let answered = async {
        while let Err(status) =
            world.transport.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await
        {
            let refusal = Refusal::from(status);
            anyhow::ensure!(refusal.is_lost(), "{refusal:?}");
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, answered).await?
}

/// Asks for an approval that is issued.
pub(crate) async fn ask(login: &LoginServer, sign_in: &SignIn) -> Result<(Updates, Issued)> {
    let mut updates = login.request(sign_in).await?;
    let issued = world::issued(&mut updates).await?;
    Ok((updates, issued))
}

/// The challenge of an approval, as its phone fetches it without waiting for the push.
pub(crate) async fn challenge_of(world: &World, phone: &Phone, approval_id: &str) -> Result<Challenge> {
    match phone.fetch(&world.transport, approval_id, world.now()).await?.asked {
        Asked::SignIn(challenge) => Ok(challenge),
        Asked::Trial(_) => anyhow::bail!("a trial came where a challenge should"),
    }
}

/// Fetches a challenge and answers it.
pub(crate) async fn answer(
    world: &World,
    phone: &Phone,
    approval_id: &str,
    decision: Decision<'_>,
) -> Result<OutcomeKind> {
    let challenge = challenge_of(world, phone, approval_id).await?;
    Ok(phone.answer(&world.transport, &challenge, decision).await?)
}

/// Fetches a challenge and approves it with the number that the page shows.
pub(crate) async fn approve(world: &World, phone: &Phone, issued: &Issued) -> Result<()> {
    let decision = Decision::Approve { number: issued.number.expose() };
    let said = answer(world, phone, &issued.approval_id, decision).await?;
    anyhow::ensure!(said == OutcomeKind::Approved, "approved with the right number, and told {said:?}");
    Ok(())
}

/// All updates up to the end of the stream, which must be the outcome.
pub(crate) async fn all(mut updates: Updates) -> Result<Vec<Update>> {
    let read = async {
        let mut all = Vec::new();
        while let Some(update) = updates.next().await? {
            all.push(update);
        }
        Ok::<_, Refusal>(all)
    };
    let all: Vec<Update> = tokio::time::timeout(PATIENCE, read).await??;
    anyhow::ensure!(matches!(all.last(), Some(Update { step: Step::Outcome(_), .. })), "no outcome: {all:?}");
    Ok(all)
}

/// The next push of this kind; others may come before it.
pub(crate) async fn push_of(phone: &EnrolledPhone, kind: PushKind) -> Result<(push_services::Push, Push)> {
    loop {
        let next = tokio::time::timeout(PATIENCE, phone.device.next_push()).await?;
        let next = next.ok_or_else(|| anyhow::anyhow!("the device is dead"))?;
        let push = Push::parse(&next.body)?;
        if push.kind == kind {
            return Ok((next, push));
        }
    }
}

/// A phone that has claimed a code and has its trial before it.
pub(crate) struct OnTrial {
    pub(crate) enrolment_id: String,
    pub(crate) phone: Phone,
    pub(crate) trial: Trial,
}

/// Binds a new phone, and leaves its trial to the caller.
pub(crate) async fn bind(world: &World, account: &str, new: &NewPhone) -> Result<OnTrial> {
    let begun = world.page.begin(account).await?;
    let invitation = Invitation::scanned(&begun.uri)?;
    let (phone, trial) = new.enrol(&world.transport, &invitation, world.now()).await?;
    Ok(OnTrial { enrolment_id: begun.enrolment_id, phone, trial })
}

/// A phone with a push target of its own, and no device that is connected to it.
pub(crate) fn new_phone(
    world: &World,
    name: &str,
    algorithm: countersign_envelope::Algorithm,
) -> Result<NewPhone> {
    let target = world.push.new_target(Service::Fcm, None)?;
    Ok(NewPhone::new(name, PushTarget::Fcm(target.to_string()), algorithm))
}

/// What a call that must not succeed was told.
#[track_caller]
pub(crate) fn refusal<T: Debug, E: Into<Refusal>>(result: Result<T, E>) -> Refusal {
    match result {
        Err(error) => error.into(),
        Ok(reply) => panic!("not refused: {reply:?}"),
    }
}

/// The same of a call whose reply the phone checks.
#[track_caller]
pub(crate) fn phone_refusal<T: Debug>(result: Result<T, phone::Error>) -> Refusal {
    match result {
        Err(phone::Error::Refused(refusal)) => refusal,
        other => panic!("not refused by the broker: {other:?}"),
    }
}

/// What a call that must not succeed was told, which must be this.
#[track_caller]
pub(crate) fn refused<T: Debug, E: Into<Refusal>>(result: Result<T, E>, code: Code, reason: &str) -> Refusal {
    let refusal = refusal(result);
    assert_refused(&refusal, code, reason);
    refusal
}

#[track_caller]
pub(crate) fn assert_refused(refusal: &Refusal, code: Code, reason: &str) {
    assert_eq!((refusal.code(), refusal.reason()), (code, Some(reason)), "{refusal:?}");
    assert!(!refusal.message().is_empty(), "a refusal says in a sentence what is wrong");
}

/// The approval has ended with this outcome, and whoever comes later is told so.
#[track_caller]
pub(crate) fn assert_ended(refusal: &Refusal, outcome: OutcomeKind) {
    assert_refused(refusal, Code::FailedPrecondition, "APPROVAL_ENDED");
    assert_eq!(refusal.outcome(), Some(outcome), "{refusal:?}");
}

/// All that tells one refusal from another.
pub(crate) fn told(refusal: &Refusal) -> (Code, String, Option<String>, Vec<(String, String)>) {
    (
        refusal.code(),
        refusal.message().to_owned(),
        refusal.reason().map(str::to_owned),
        refusal.fields().to_vec(),
    )
}

/// The names of the fields that a request was refused for.
pub(crate) fn fields(refusal: &Refusal) -> Vec<&str> {
    refusal.fields().iter().map(|(name, _)| name.as_str()).collect()
}

/// An account's authenticator, as its page lists it.
pub(crate) async fn listed(
    world: &World,
    account: &str,
    authenticator_id: &str,
) -> Result<v1::Authenticator> {
    let all = world.page.list(account).await?;
    let found = all.into_iter().find(|one| one.authenticator_id == authenticator_id);
    found.ok_or_else(|| anyhow::anyhow!("{account} has no authenticator {authenticator_id}"))
}
