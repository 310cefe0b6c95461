//! Asking a push service, without a phone, whether it is there and takes our credentials: for `countersign doctor`.
//!
//! Both are asked in the broker's own way: over a connection made as the broker makes it, with a token from the
//! same key. What is offered is a push that no phone can get; a service that takes the credentials refuses it for
//! that alone. Each asking makes a new token: Apple wants no more than one in 20 minutes on a connection, and a
//! connection is what is made anew.

use std::time::Duration;

use countersign_domain::Timestamp;
use reqwest::{Url, header::DATE};

use super::{
    Accepted, Clock, Error,
    connection::{Recipe, unanswered},
    retry::http_date,
    settings::SetupError,
};

/// A service that has not answered by then is not there.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What came of asking a push service.
#[derive(Debug)]
pub struct Probe {
    /// Each address that a push needs, and whether somebody answers there.
    pub addresses: Vec<(String, Result<Reached, Error>)>,
    /// Whether the credentials are taken; none if somebody does not answer.
    pub credentials: Option<Result<(), Error>>,
}

/// Somebody answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// What their clock showed, to the second, if they say it.
    pub their_time: Option<Timestamp>,
    /// What ours showed then.
    pub our_time: Timestamp,
}

impl Probe {
    pub(super) async fn of(
        addresses: impl IntoIterator<Item = (String, &Recipe)>,
        credentials: impl Future<Output = Result<Accepted, Error>>,
        clock: &Clock,
    ) -> Result<Self, SetupError> {
        let mut asked = Vec::new();
        for (address, recipe) in addresses {
            let reached = reach(&address, recipe, clock).await?;
            asked.push((address, reached));
        }
        let all_answer = asked.iter().all(|(_, reached)| reached.is_ok());
        let credentials = if all_answer { Some(taken(within(credentials).await)) } else { None };
        Ok(Self { addresses: asked, credentials })
    }
}

/// Whether somebody answers, whatever it is: DNS, TCP, TLS and HTTP have done what they should.
async fn reach(address: &str, recipe: &Recipe, clock: &Clock) -> Result<Result<Reached, Error>, SetupError> {
    let client = recipe.client()?;
    let Ok(url) = Url::parse(address) else {
        return Ok(Err(Error::Refused { reason: "the endpoint is no address".to_owned() }));
    };
    let asked = within(async { Ok(client.get(url).send().await.map_err(unanswered)?) }).await;
    Ok(asked.map(|answer| Reached {
        their_time: answer.headers().get(DATE).and_then(|date| http_date(date.to_str().ok()?)),
        our_time: clock(),
    }))
}

async fn within<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_WITHIN, asked).await.unwrap_or_else(|_| {
        Err(Error::Unreachable { reason: format!("no answer within {} s", ANSWER_WITHIN.as_secs()) })
    })
}

/// A service that says that there is no such phone has taken the credentials before.
fn taken(answer: Result<Accepted, Error>) -> Result<(), Error> {
    match answer {
        Ok(_) | Err(Error::Dead { .. }) => Ok(()),
        // A good token of another app is known as one only after the credentials.
        Err(Error::Refused { reason })
            if reason == "DeviceTokenNotForTopic" || reason.starts_with("INVALID_ARGUMENT") =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
