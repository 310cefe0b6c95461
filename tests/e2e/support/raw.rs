//! Calls as bytes: what no generated client would send, and what a reply holds before anybody has decoded it.

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::Stream;
use http::uri::PathAndQuery;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};

/// Messages as they are on the wire.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One call: the bytes of its reply.
pub(crate) async fn call(
    channel: Channel,
    path: &'static str,
    key: Option<&str>,
    message: impl Into<Bytes>,
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel);
    ready(&mut grpc).await?;
    let request = authorized(Request::new(message.into()), key);
    Ok(grpc.unary(request, PathAndQuery::from_static(path), Raw).await?.into_inner())
}

/// One call whose messages go out as `messages` gives them: the server sees the call before it sees them.
pub(crate) async fn call_slowly(
    channel: Channel,
    path: &'static str,
    key: Option<&str>,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel);
    ready(&mut grpc).await?;
    let request = authorized(Request::new(messages), key);
    Ok(grpc.client_streaming(request, PathAndQuery::from_static(path), Raw).await?.into_inner())
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))
}

fn authorized<T>(mut request: Request<T>, key: Option<&str>) -> Request<T> {
    if let Some(key) = key {
        let value = MetadataValue::try_from(format!("Bearer {key}")).expect("keys are visible ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}
