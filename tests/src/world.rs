//! A small world round a broker: simulated push services, a registered login server and enrolling page, phones.

use std::{fmt, time::Duration};

use anyhow::{Context as _, bail};
use countersign_envelope::Algorithm;
use countersign_proto::v1;
use device_sim::{
    clock::{Clock, Timestamp},
    login::{ApiKey, EnrollingPage, EnrolmentStep, LoginServer, SignIn, Step, Updates},
    phone::{Challenge, Invitation, NewPhone, Phone, Push, PushTarget},
    push_services::{Config, Device, PushServices, Service},
    wire::Transport,
};
use tempfile::TempDir;

use crate::{Broker, Result};

/// The application that the world's login server is registered with.
pub const APPLICATION: &str = "Webmail";
/// Its realm.
pub const REALM: &str = "example.org";

/// On a machine that is busy with other tests, a step may take this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A broker and all that is round it.
pub struct World {
    /// The simulated APNs and FCM.
    pub push: PushServices,
    /// The broker.
    pub broker: Broker,
    /// A login server with a key for sign-in.
    pub login: LoginServer,
    /// An enrolling page with a key for enrolment.
    pub page: EnrollingPage,
    /// The way to the broker.
    pub transport: Transport,
    /// The relying party that both are.
    pub relying_party_id: String,
    /// The key for sign-in.
    pub sign_in_key: String,
    /// The key for enrolment.
    pub enrolment_key: String,
    /// The phones' clock.
    pub clock: Clock,
    _files: TempDir,
}

/// A phone that is enrolled, and the device that its pushes come to.
#[derive(Debug)]
pub struct EnrolledPhone {
    /// The phone.
    pub phone: Phone,
    /// Where its pushes come.
    pub device: Device,
}

impl World {
    /// A world with everything as it usually is.
    pub async fn new() -> Result<Self> {
        Self::with("").await
    }

    /// A world whose broker has this appended to its configuration.
    pub async fn with(configuration: &str) -> Result<Self> {
        Self::with_push(configuration, Config::new()?).await
    }

    /// A world with other push services than usual.
    pub async fn with_push(configuration: &str, push: Config) -> Result<Self> {
        Self::made(configuration, |text| text, push).await
    }

    /// A world whose broker's configuration is edited so before its first start.
    pub async fn with_edited(configuration: &str, edit: impl FnOnce(String) -> String) -> Result<Self> {
        Self::made(configuration, edit, Config::new()?).await
    }

    async fn made(configuration: &str, edit: impl FnOnce(String) -> String, push: Config) -> Result<Self> {
        // Another test of this process may have installed it already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let files = tempfile::tempdir()?;
        let identity = push.identity.clone();
        let push = PushServices::start(push).await?;
        let sections = push.broker_configuration(&identity.save(files.path(), &push.token_uri())?);
        let mut broker = Broker::make(&format!("{sections}\n{configuration}"))?;
        broker.edit_configuration(edit)?;
        broker.start()?;
        Self::round(broker, push, files).await
    }

    async fn round(broker: Broker, push: PushServices, files: TempDir) -> Result<Self> {
        let (relying_party_id, sign_in_key, enrolment_key) =
            register(&broker, "Example College", REALM).await?;
        let transport = Transport::to(broker.address()).open()?;
        Ok(Self {
            login: LoginServer::new(&transport, Some(ApiKey::new(&sign_in_key))),
            page: EnrollingPage::new(&transport, Some(ApiKey::new(&enrolment_key))),
            push,
            broker,
            transport,
            relying_party_id,
            sign_in_key,
            enrolment_key,
            clock: Clock::new(),
            _files: files,
        })
    }

    /// Now, by the phones' clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Enrols a phone through the public interface: code, claim, trial with its push, number.
    pub async fn enrol(
        &self,
        account: &str,
        service: Service,
        algorithm: Algorithm,
    ) -> Result<EnrolledPhone> {
        let device = self.push.new_device(service)?;
        let target = match service {
            Service::Apns => PushTarget::Apns(device.target().to_owned()),
            Service::Fcm => PushTarget::Fcm(device.target().to_owned()),
        };
        let begun = self.page.begin(account).await?;
        let invitation = Invitation::scanned(&begun.uri)?;
        let new = NewPhone::new(format!("{account}'s phone"), target, algorithm);
        let (phone, trial) = new.enrol(&self.transport, &invitation, self.now()).await?;
        // The trial proves that pushes arrive: nobody goes on before one has.
        let push = received(&device).await?;
        anyhow::ensure!(push.id == trial.enrolment_id(), "the first push is not that of the trial");
        let number = self.trial_number(&begun.enrolment_id).await?;
        phone.answer_trial(&self.transport, &trial, number.expose()).await?;
        Ok(EnrolledPhone { phone, device })
    }

    /// The number that the enrolling page shows.
    pub async fn trial_number(&self, enrolment_id: &str) -> Result<device_sim::phone::Number> {
        let mut updates = self.page.watch(enrolment_id, 0).await?;
        while let Some(update) = updates.next().await? {
            if let EnrolmentStep::Trial { number, .. } = update.step {
                return Ok(number);
            }
        }
        bail!("the enrolment ended before its trial")
    }

    /// Asks for an approval as a login server does.
    #[expect(clippy::unused_self, reason = "it reads as what happens in this world")]
    pub fn sign_in(&self, account: &str) -> SignIn {
        SignIn::new(account, APPLICATION)
    }

    /// The challenge that a push has led to, fetched and checked.
    pub async fn challenge(&self, phone: &EnrolledPhone) -> Result<Challenge> {
        let push = received(&phone.device).await?;
        match phone.phone.fetch(&self.transport, &push.id, self.now()).await?.asked {
            device_sim::phone::Asked::SignIn(challenge) => Ok(challenge),
            device_sim::phone::Asked::Trial(_) => bail!("a trial came where a challenge should"),
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("broker", &self.broker).finish_non_exhaustive()
    }
}

/// Registers a relying party: its id, a key for sign-in, a key for enrolment.
pub async fn register(broker: &Broker, name: &str, realm: &str) -> Result<(String, String, String)> {
    let mut administration = broker.administration().await?;
    let request = v1::RegisterRelyingPartyRequest {
        name: name.to_owned(),
        applications: vec![APPLICATION.to_owned(), "VPN".to_owned()],
        realm: realm.to_owned(),
    };
    let id = administration.register_relying_party(request).await?.into_inner().relying_party_id;
    let mut keys = Vec::new();
    for scope in [v1::CredentialScope::SignIn, v1::CredentialScope::Enrolment] {
        let request = v1::IssueCredentialRequest {
            relying_party_id: id.clone(),
            scope: scope.into(),
            client_certificate: bytes::Bytes::new(),
        };
        keys.push(administration.issue_credential(request).await?.into_inner().api_key);
    }
    let enrolment = keys.pop().context("two keys were issued")?;
    let sign_in = keys.pop().context("two keys were issued")?;
    Ok((id, sign_in, enrolment))
}

/// The next push that comes to a device, as the phone reads it.
pub async fn received(device: &Device) -> Result<Push> {
    let push = tokio::time::timeout(PATIENCE, device.next_push()).await.context("no push comes")?;
    let push = push.context("the device is dead")?;
    Ok(Push::parse(&push.body)?)
}

/// Reads updates up to the outcome.
pub async fn outcome(updates: &mut Updates) -> Result<device_sim::login::Outcome> {
    let read = async {
        while let Some(update) = updates.next().await? {
            if let Step::Outcome(outcome) = update.step {
                return Ok(outcome);
            }
        }
        bail!("the stream ended without an outcome")
    };
    tokio::time::timeout(PATIENCE, read).await.context("no outcome comes")?
}

/// Reads updates up to the number.
pub async fn issued(updates: &mut Updates) -> Result<device_sim::login::Issued> {
    match updates.next().await?.context("the stream ended without an update")?.step {
        Step::Issued(issued) => Ok(issued),
        other => bail!("not issued: {other:?}"),
    }
}
