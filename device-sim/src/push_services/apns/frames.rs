//! The two things that Apple's servers do with HTTP/2 and the `h2` crate's server does not: change
//! `SETTINGS_MAX_CONCURRENT_STREAMS` on a running connection, and give a reason in the debug data of GOAWAY.
//!
//! [`Tap`] lies between TLS and `h2`. It knows frames by their heads alone (RFC 9113 section 4.1) and touches
//! three of them: the server's first SETTINGS (which then allows one stream), every GOAWAY (which gets the
//! reason), and the client's acknowledgement of the SETTINGS that the tap itself sent, which `h2` must not see.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client sends before its first frame (RFC 9113 section 3.4).
const PREFACE_LENGTH: usize = 24;
const HEAD_LENGTH: usize = 9;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const FLAG_ACK: u8 = 0x1;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
/// Identifier and value.
const SETTING_LENGTH: usize = 6;
/// More than this in the outgoing buffer, and writers wait.
const OUT_MAX: usize = 64 * 1024;
const READ_CHUNK: usize = 16 * 1024;

/// What the connection tells its tap.
#[derive(Clone, Debug, Default)]
pub(crate) struct TapControl(Arc<Mutex<Wishes>>);

#[derive(Debug, Default)]
struct Wishes {
    raise_streams_to: Option<u32>,
    goaway_debug: Bytes,
}

impl TapControl {
    /// Allows `streams` at a time, with the next write or flush.
    pub(crate) fn raise_streams(&self, streams: u32) {
        self.lock().raise_streams_to = Some(streams);
    }

    /// Gives `debug` to every GOAWAY from now on.
    pub(crate) fn explain_goaway(&self, debug: Bytes) {
        self.lock().goaway_debug = debug;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wishes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A byte stream that rewrites a few HTTP/2 frames on their way.
#[derive(Debug)]
pub(crate) struct Tap<S> {
    inner: S,
    control: TapControl,
    outgoing: Outgoing,
    incoming: Incoming,
}

impl<S> Tap<S> {
    /// A tap on the server's side of a connection that has not begun.
    pub(crate) fn new(inner: S, control: TapControl) -> Self {
        Self { inner, control, outgoing: Outgoing::default(), incoming: Incoming::default() }
    }
}

impl<S: AsyncWrite + Unpin> Tap<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.ready.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.outgoing.ready))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.ready.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn fulfil_wishes(&mut self) {
        let wish = self.outgoing.is_between_frames().then(|| self.control.lock().raise_streams_to.take());
        if let Some(streams) = wish.flatten() {
            self.outgoing.ready.extend_from_slice(&settings_frame(streams));
            self.incoming.acknowledgements_to_drop += 1;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.outgoing.ready.len() >= OUT_MAX {
            ready!(this.poll_drain(cx))?;
        }
        this.fulfil_wishes();
        this.outgoing.take(buf, &this.control);
        // What cannot be written now is written by the next write or flush; h2 always flushes.
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fulfil_wishes();
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut chunk = [0; READ_CHUNK];
        while this.incoming.ready.is_empty() {
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.incoming.take(chunk.filled());
        }
        let length = this.incoming.ready.len().min(buf.remaining());
        buf.put_slice(&this.incoming.ready.split_to(length));
        Poll::Ready(Ok(()))
    }
}

/// The server's frames, on their way out.
#[derive(Debug, Default)]
struct Outgoing {
    /// A head that is not whole yet, or a whole frame that is to be rewritten.
    held: BytesMut,
    /// Bytes of a frame that passes unchanged and is not over yet.
    passing: usize,
    first_settings_sent: bool,
    ready: BytesMut,
}

impl Outgoing {
    fn is_between_frames(&self) -> bool {
        self.held.is_empty() && self.passing == 0 && self.first_settings_sent
    }

    fn take(&mut self, mut bytes: &[u8], control: &TapControl) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (passing, rest) = bytes.split_at(self.passing.min(bytes.len()));
                self.ready.extend_from_slice(passing);
                self.passing -= passing.len();
                bytes = rest;
                continue;
            }
            let wanted = self.held_length() - self.held.len();
            let (held, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend_from_slice(held);
            bytes = rest;
            if self.held.len() == self.held_length() {
                self.release(control);
            }
        }
    }

    /// How much has to be held before it can be decided on: a head, or a whole frame that is rewritten.
    fn held_length(&self) -> usize {
        match Head::of(&self.held) {
            Some(head) if self.rewrites(head) => HEAD_LENGTH + head.length,
            _ => HEAD_LENGTH,
        }
    }

    fn rewrites(&self, head: Head) -> bool {
        head.kind == GOAWAY || (head.kind == SETTINGS && !head.is_ack() && !self.first_settings_sent)
    }

    fn release(&mut self, control: &TapControl) {
        let frame = self.held.split();
        let head = Head::of(&frame).expect("a head was waited for");
        if !self.rewrites(head) {
            self.passing = head.length;
            self.ready.extend_from_slice(&frame);
        } else if head.kind == SETTINGS {
            self.first_settings_sent = true;
            self.ready.extend_from_slice(&one_stream(&frame));
        } else {
            self.ready.extend_from_slice(&with_debug_data(&frame, &control.lock().goaway_debug));
        }
    }
}

/// The client's frames, on their way in.
#[derive(Debug, Default)]
struct Incoming {
    preface_seen: usize,
    held: BytesMut,
    passing: usize,
    /// The first acknowledgement is for h2's own SETTINGS, which it waits for.
    own_acknowledged: bool,
    acknowledgements_to_drop: u32,
    ready: BytesMut,
}

impl Incoming {
    fn take(&mut self, mut bytes: &[u8]) {
        if self.preface_seen < PREFACE_LENGTH {
            let (preface, rest) = bytes.split_at((PREFACE_LENGTH - self.preface_seen).min(bytes.len()));
            self.ready.extend_from_slice(preface);
            self.preface_seen += preface.len();
            bytes = rest;
        }
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (passing, rest) = bytes.split_at(self.passing.min(bytes.len()));
                self.ready.extend_from_slice(passing);
                self.passing -= passing.len();
                bytes = rest;
                continue;
            }
            let (held, rest) = bytes.split_at((HEAD_LENGTH - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(held);
            bytes = rest;
            if let Some(head) = Head::of(&self.held) {
                let frame = self.held.split();
                self.passing = head.length;
                if !self.drops(head) {
                    self.ready.extend_from_slice(&frame);
                }
            }
        }
    }

    fn drops(&mut self, head: Head) -> bool {
        if !(head.kind == SETTINGS && head.is_ack() && head.length == 0) {
            return false;
        }
        if !self.own_acknowledged {
            self.own_acknowledged = true;
            return false;
        }
        let ours = self.acknowledgements_to_drop > 0;
        self.acknowledgements_to_drop = self.acknowledgements_to_drop.saturating_sub(1);
        ours
    }
}

#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Head {
    fn of(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, ..] = bytes.get(..HEAD_LENGTH)? else { return None };
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags })
    }

    fn is_ack(self) -> bool {
        self.flags & FLAG_ACK != 0
    }
}

/// The head of a frame of the connection itself.
fn head(kind: u8, length: usize) -> [u8; HEAD_LENGTH] {
    let [.., a, b, c] = length.to_be_bytes();
    [a, b, c, kind, 0, 0, 0, 0, 0]
}

fn settings_frame(streams: u32) -> Vec<u8> {
    let mut frame = head(SETTINGS, SETTING_LENGTH).to_vec();
    frame.extend(MAX_CONCURRENT_STREAMS.to_be_bytes());
    frame.extend(streams.to_be_bytes());
    frame
}

/// The same SETTINGS, but allowing one stream.
fn one_stream(frame: &[u8]) -> Vec<u8> {
    let others = frame[HEAD_LENGTH..]
        .chunks_exact(SETTING_LENGTH)
        .filter(|setting| setting[..2] != MAX_CONCURRENT_STREAMS.to_be_bytes())
        .flatten();
    let mut settings: Vec<u8> = others.copied().collect();
    settings.extend(MAX_CONCURRENT_STREAMS.to_be_bytes());
    settings.extend(1u32.to_be_bytes());
    let mut frame = head(SETTINGS, settings.len()).to_vec();
    frame.append(&mut settings);
    frame
}

/// The same GOAWAY, with `debug` behind what it says already.
fn with_debug_data(frame: &[u8], debug: &[u8]) -> Vec<u8> {
    let payload = &frame[HEAD_LENGTH..];
    let mut longer = head(GOAWAY, payload.len() + debug.len()).to_vec();
    longer.extend_from_slice(payload);
    longer.extend_from_slice(debug);
    longer
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0x0;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = head(kind, payload.len()).to_vec();
        frame[4] = flags;
        frame.extend_from_slice(payload);
        frame
    }

    fn setting(identifier: u16, value: u32) -> Vec<u8> {
        [identifier.to_be_bytes().as_slice(), value.to_be_bytes().as_slice()].concat()
    }

    /// However the bytes are cut, the same must come out.
    fn in_pieces(bytes: &[u8], mut take: impl FnMut(&[u8])) {
        for piece in bytes.chunks(5) {
            take(piece);
        }
    }

    #[test]
    fn the_first_settings_allow_one_stream_whatever_h2_would_allow() {
        let control = TapControl::default();
        let mut outgoing = Outgoing::default();
        let settings = [setting(0x1, 4096), setting(0x3, 1000), setting(0x4, 65535)].concat();
        let sent = [frame(SETTINGS, 0, &settings), frame(DATA, 0, b"whole")].concat();
        in_pieces(&sent, |piece| outgoing.take(piece, &control));
        let settings = [setting(0x1, 4096), setting(0x4, 65535), setting(0x3, 1)].concat();
        assert_eq!(outgoing.ready, [frame(SETTINGS, 0, &settings), frame(DATA, 0, b"whole")].concat());
    }

    #[test]
    fn later_settings_pass_unchanged() {
        let control = TapControl::default();
        let mut outgoing = Outgoing { first_settings_sent: true, ..Outgoing::default() };
        let sent = frame(SETTINGS, 0, &setting(0x3, 1000));
        in_pieces(&sent, |piece| outgoing.take(piece, &control));
        assert_eq!(outgoing.ready, sent);
    }

    #[test]
    fn a_goaway_gets_its_reason() {
        let control = TapControl::default();
        control.explain_goaway(Bytes::from_static(b"{\"reason\":\"Shutdown\"}"));
        let mut outgoing = Outgoing::default();
        in_pieces(&frame(GOAWAY, 0, &[0, 0, 0, 7, 0, 0, 0, 0]), |piece| outgoing.take(piece, &control));
        let payload = [&[0, 0, 0, 7, 0, 0, 0, 0], b"{\"reason\":\"Shutdown\"}".as_slice()].concat();
        assert_eq!(outgoing.ready, frame(GOAWAY, 0, &payload));
    }

    #[test]
    fn only_the_acknowledgement_of_the_taps_own_settings_is_kept_from_h2() {
        let mut incoming = Incoming { acknowledgements_to_drop: 1, ..Incoming::default() };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let ack = frame(SETTINGS, FLAG_ACK, &[]);
        let data = frame(DATA, 0, b"payload");
        let sent = [&preface[..], &ack, &data, &ack, &data, &ack].concat();
        in_pieces(&sent, |piece| incoming.take(piece));
        assert_eq!(incoming.ready, [&preface[..], &ack, &data, &data, &ack].concat());
    }

    #[test]
    fn nothing_is_sent_in_the_middle_of_a_frame() {
        let control = TapControl::default();
        let mut outgoing = Outgoing { first_settings_sent: true, ..Outgoing::default() };
        outgoing.take(&frame(DATA, 0, b"payload")[..11], &control);
        assert!(!outgoing.is_between_frames());
        outgoing.take(&frame(DATA, 0, b"payload")[11..], &control);
        assert!(outgoing.is_between_frames());
    }
}
