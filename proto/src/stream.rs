//! A stream that holds its connection's place among those of its source address, and one that tells when its peer
//! has begun to speak.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

use crate::addresses::Place;

/// Passes everything through; dropping it gives the place back.
#[derive(Debug)]
pub struct Held<IO> {
    io: IO,
    _place: Place,
    /// At the enrolment doors.
    _enrolling: Option<OwnedSemaphorePermit>,
}

impl<IO> Held<IO> {
    pub(crate) const fn new(io: IO, place: Place, enrolling: Option<OwnedSemaphorePermit>) -> Self {
        Self { io, _place: place, _enrolling: enrolling }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Held<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Held<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Tells when the peer has sent so many bytes, and passes everything through.
#[derive(Debug)]
pub(crate) struct Opening<IO, F> {
    io: IO,
    left: usize,
    told: Option<F>,
}

impl<IO, F: FnOnce()> Opening<IO, F> {
    pub(crate) const fn new(io: IO, bytes: usize, tell: F) -> Self {
        Self { io, left: bytes, told: Some(tell) }
    }
}

impl<IO: AsyncRead + Unpin, F: FnOnce() + Unpin> AsyncRead for Opening<IO, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if self.told.is_some() {
            self.left = self.left.saturating_sub(buffer.filled().len() - before);
            if self.left == 0
                && let Some(tell) = self.told.take()
            {
                tell();
            }
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Opening<IO, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
