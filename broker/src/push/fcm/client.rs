//! One connection to FCM.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_domain::{
    Timestamp,
    event::{PushServiceKind, PushTarget},
};
use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;

use super::{
    LiveTokens,
    error::{Verdict, verdict},
    oauth::token_not_taken,
};
use crate::push::{
    Accepted, Error, HttpsUrl, PushMessage, PushService,
    connection::{Connection, body, printable},
    payload,
};

/// The name of a message is shorter.
const PUSH_ID_BYTES_MAX: usize = 256;

/// One connection to FCM.
pub struct Fcm {
    connection: Connection,
    tokens: Arc<LiveTokens>,
    send: Url,
}

#[derive(Deserialize)]
struct Sent {
    name: String,
}

impl Fcm {
    pub(super) fn new(
        connection: Connection,
        tokens: Arc<LiveTokens>,
        endpoint: &HttpsUrl,
        project_id: &str,
    ) -> Self {
        let send = Url::parse(&format!("{endpoint}/v1/projects/{project_id}/messages:send"))
            .expect("an address, and a project id of letters, digits, dots, colons and hyphens");
        Self { connection, tokens, send }
    }

    /// Has FCM say what it would do with a push to this registration token. Nothing is sent to anybody.
    pub(super) async fn validate(&self, registration_token: &str, now: Timestamp) -> Result<Accepted, Error> {
        self.offer_renewed(payload::fcm_validated(registration_token), now).await
    }

    /// Offers the push, once more if its access token has to be renewed.
    async fn offer_renewed(&self, body: Bytes, now: Timestamp) -> Result<Accepted, Error> {
        let tokens = self.tokens.current();
        let bearer = tokens.current(now).await?;
        let answer = match self.offer(body.clone(), bearer.clone(), now).await {
            Err(Verdict::TokenRefused) => {
                let renewed = tokens.after_refused(&bearer, now).await?;
                self.offer(body, renewed, now).await
            }
            answer => answer,
        };
        answer.map_err(|verdict| match verdict {
            Verdict::Final(error) => error,
            Verdict::TokenRefused => token_not_taken(),
        })
    }

    /// Offers the push with this access token.
    async fn offer(&self, message: Bytes, bearer: HeaderValue, now: Timestamp) -> Result<Accepted, Verdict> {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (AUTHORIZATION, bearer),
        ]);
        let response = self.connection.post(self.send.clone(), headers, message).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body(response).await?;
        if status == StatusCode::OK {
            let name = serde_json::from_slice(&body).map(|Sent { name }| printable(&name, PUSH_ID_BYTES_MAX));
            return Ok(Accepted { push_id: name.unwrap_or_default() });
        }
        Err(verdict(status, &headers, &body, now))
    }
}

#[async_trait]
impl PushService for Fcm {
    async fn send(
        &self,
        target: &PushTarget,
        message: &PushMessage,
        now: Timestamp,
    ) -> Result<Accepted, Error> {
        if target.service() != PushServiceKind::Fcm {
            return Err(Error::Refused { reason: "the target is no FCM registration token".to_owned() });
        }
        self.offer_renewed(payload::fcm(target.token(), message, now), now).await
    }
}

impl fmt::Debug for Fcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fcm")
            .field("send", &self.send.as_str())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}
