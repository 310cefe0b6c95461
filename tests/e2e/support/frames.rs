//! HTTP/2 by hand (RFC 9113): what no library of a client would send.

use countersign_tests::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// SETTINGS_INITIAL_WINDOW_SIZE: what the other side may send on each stream.
pub(crate) const INITIAL_WINDOW: u16 = 4;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client begins with.
pub(crate) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &settings)].concat()
}

/// A header as HPACK has it without a table (RFC 7541 section 6.2.2).
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![0];
    for text in [name, value] {
        // An integer with a prefix of seven bits (section 5.1).
        match text.len() {
            short @ 0..127 => header.push(u8::try_from(short).expect("it is short")),
            long => {
                header.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    header.push(u8::try_from(rest % 128 + 128).expect("seven bits and one"));
                    rest /= 128;
                }
                header.push(u8::try_from(rest).expect("seven bits"));
            }
        }
        header.extend(text.as_bytes());
    }
    header
}

/// The headers of a gRPC call.
pub(crate) fn call(path: &str, key: Option<&str>) -> Vec<u8> {
    let authorization = key.map(|key| header("authorization", &format!("Bearer {key}")));
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
        authorization.unwrap_or_default(),
    ]
    .concat()
}

/// A message of gRPC, as it is in DATA frames.
pub(crate) fn message(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message is small");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// The next frame: kind, flags, stream, payload.
pub(crate) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length.try_into()?];
    stream.read_exact(&mut payload).await?;
    Ok((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}
