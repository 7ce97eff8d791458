//! Packs from the controller, for the blocking code that stages.

use std::{
    io::{self, Read},
    time::Duration,
};

use bunraku_common::{Digest, limits};
use bunraku_proto::{
    CallFailed,
    v1::{PackChunk, PackRequest, content_client::ContentClient},
};
use bunraku_versions::PackSource;
use tokio::{runtime::Handle, time::timeout};
use tonic::{Status, Streaming, transport::Channel};

/// A stream that gives nothing for so long is broken: the next one goes on where it ended.
const SILENCE: Duration = Duration::from_secs(30);

/// Fetches over one channel. Must be used on a blocking thread.
pub(crate) struct Packs {
    runtime: Handle,
    client: ContentClient<Channel>,
}

impl Packs {
    pub(crate) fn new(runtime: Handle, channel: Channel) -> Self {
        Self { runtime, client: ContentClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES) }
    }
}

impl PackSource for Packs {
    fn open(
        &mut self,
        want: &Digest,
        have: &[Digest],
        after: Option<Digest>,
    ) -> io::Result<Box<dyn Read + Send>> {
        let request = PackRequest {
            want: want.to_string(),
            have: have.iter().map(ToString::to_string).collect(),
            after: after.map(|digest| digest.to_string()).unwrap_or_default(),
        };
        let opened = self.runtime.block_on(async { timeout(SILENCE, self.client.pack(request)).await });
        let stream = opened.map_err(|_| silent())?.map_err(broken)?.into_inner();
        Ok(Box::new(Chunks { runtime: self.runtime.clone(), stream, data: Vec::new(), at: 0 }))
    }
}

/// The bytes of a stream of chunks.
struct Chunks {
    runtime: Handle,
    stream: Streaming<PackChunk>,
    data: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.data.len() {
            let next = self.runtime.block_on(async { timeout(SILENCE, self.stream.message()).await });
            match next.map_err(|_| silent())?.map_err(broken)? {
                Some(chunk) => (self.data, self.at) = (chunk.data, 0),
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.data.len() - self.at);
        buffer[..taken].copy_from_slice(&self.data[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

fn silent() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the controller gave nothing for {} s", SILENCE.as_secs()),
    )
}

fn broken(status: Status) -> io::Error {
    io::Error::other(CallFailed::from(status))
}
