//! The door to the broker's services: nothing but that, unless a mutation looks at what comes in, or tells something else
//! than was answered.

use std::error::Error;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use countersign::api::{grpc::Front, listen::Answers};
use countersign_proto::v1::{self, approval_update::Update};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Collected, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming};
use prost::Message;

use crate::mutation::{Mutation, Tampered};

/// See above.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) front: Front,
    pub(crate) tampered: Option<Tampered>,
}

type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

impl Answers for Door {
    type Body = Body;

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let Some(tampered) = self.tampered else {
            return self.front.call(request).await.map(|body| body.map_err(Into::into).boxed_unsync());
        };
        let (parts, body) = request.into_parts();
        let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let bytes = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
        if method == "SubmitAnswer" {
            tampered.look_at_answer(&bytes).await;
        }
        let answer = self.front.call(Request::from_parts(parts, Full::new(bytes))).await;
        let answer = answer.map(|body| body.map_err(Into::into).boxed_unsync());
        match method.as_str() {
            "RequestApproval" | "WatchApproval" => {
                answer.map(|body| retold(body, move |update| tampered.retell(update)))
            }
            "ListWaiting"
                if tampered.mutation == Some(Mutation::OldNonceTaken)
                    && answer.headers().get("grpc-status").is_some_and(|status| status == "16") =>
            {
                nothing_waits()
            }
            _ => answer,
        }
    }
}

/// The reply to a phone for which nothing waits.
fn nothing_waits() -> Response<Body> {
    let well =
        HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(well)) });
    let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

impl Tampered {
    async fn look_at_answer(&self, bytes: &Bytes) {
        let message = next_message(&mut BytesMut::from(&bytes[..]));
        let request = message.and_then(|message| v1::SubmitAnswerRequest::decode(message).ok());
        let Some(envelope) = request.and_then(|request| request.answer) else { return };
        let hash = crate::ledger::answer_hash(&envelope);
        self.captured.lock().expect("nobody panics").insert(hash, envelope.clone());
        let is_taken = match self.mutation {
            Some(Mutation::SignatureNotChecked) => envelope.signature[..] == [0; 64],
            Some(Mutation::LeftPhoneAnswers) => self.has_left(&envelope).await,
            _ => false,
        };
        if is_taken {
            self.take_unchecked(&envelope).await;
        }
    }

    /// A step of an approval, as a page is told it.
    fn retell(&self, message: Bytes) -> Bytes {
        let Ok(mut update) = v1::ApprovalUpdate::decode(message.clone()) else { return message };
        let Some(Update::Outcome(outcome)) = &mut update.update else { return message };
        match self.mutation {
            Some(Mutation::SessionForgotten) => outcome.session_binding.clear(),
            Some(Mutation::ValidTooLong) => {
                outcome.valid_until.iter_mut().for_each(|until| until.seconds *= 1_000);
            }
            _ => return message,
        }
        update.encode_to_vec().into()
    }
}

/// The messages of an answer, each as `retell` has it.
fn retold(body: Body, mut retell: impl FnMut(Bytes) -> Bytes + Send + 'static) -> Body {
    let mut come = BytesMut::new();
    let retold = body.map_frame(move |frame| {
        frame.map_data(|data| {
            come.extend_from_slice(&data);
            let mut gone = BytesMut::new();
            while let Some(message) = next_message(&mut come) {
                let message = retell(message);
                gone.put_u8(0);
                gone.put_u32(u32::try_from(message.len()).expect("messages are small"));
                gone.put(message);
            }
            gone.freeze()
        })
    });
    retold.boxed_unsync()
}

/// gRPC: a flag and a length of four bytes, then the message.
fn next_message(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = bytes.get(1..5).map(|mut length| length.get_u32() as usize)?;
    if bytes.len() < 5 + length {
        return None;
    }
    bytes.advance(5);
    Some(bytes.split_to(length).freeze())
}
