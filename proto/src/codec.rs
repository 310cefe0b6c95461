//! Messages to bytes and back, with buffers that fit.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Messages of a sign-in have 100 to 600 bytes. tonic's own codec begins with 8 KiB for each direction of each call, and
/// a stream keeps them: that is most of what a login that waits would cost. A buffer grows where a message needs more.
const BUFFER_BYTES: usize = 512;
/// So much is gathered of a stream before it is sent, if it comes at once.
const GATHERED_BYTES: usize = 8 * 1024;

/// `application/grpc+proto`, for clients and servers of this crate.
#[derive(Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for SmallBuffers<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES)
}
