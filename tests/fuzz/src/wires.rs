//! What transports take: entries of a mailbox, and the frames on a stream.

use crate::Verdict;
use crate::world::world;
use bytes::Bytes;
use jincai_crypto::sha256;
use jincai_transports::{Error, LinkEvent, Mailbox, Session, mailbox_link, session_link};
use jincai_types::{AuthorityId, Priority, limits};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Frames of one input, at most: an event's channel holds all of them.
const FRAMES: usize = 64 << 10;

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads").block_on(future)
}

/// A mailbox with one entry, and an empty place behind it: who looks there has looked at the entry.
struct OneEntry {
    entry: Vec<u8>,
    /// Told whether the entry was taken.
    done: Mutex<Option<oneshot::Sender<bool>>>,
}

impl OneEntry {
    fn tell(&self, taken: bool) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = done.take() {
            // Nobody listens any more if the target has returned.
            done.send(taken).ok();
        }
    }
}

impl Mailbox for OneEntry {
    async fn put(&self, _: Priority, _: Bytes) -> Result<(), Error> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>, Error> {
        Ok(vec!["entry".into(), "behind".into()])
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if name == "entry" {
            return Ok(Some(self.entry.clone()));
        }
        self.tell(false);
        Ok(None)
    }

    async fn remove(&self, _: &str) -> Result<(), Error> {
        self.tell(true);
        Ok(())
    }

    async fn set_aside(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

/// An entry of a mailbox: after a first byte of 1 a frame, of which the entry is made here.
pub(crate) fn mailbox(bytes: &[u8]) -> Verdict {
    let (choice, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let entry = if *choice == 1 { entry(rest) } else { rest.to_vec() };
    let frame = run(async {
        let (events, mut heard) = mpsc::channel(8);
        let (done, told) = oneshot::channel();
        let mailbox = OneEntry { entry: entry.clone(), done: Mutex::new(Some(done)) };
        let link = mailbox_link(world().ids[0], mailbox, Duration::from_millis(1), events);
        let taken = told.await.unwrap_or(false);
        drop(link);
        let mut frame = None;
        while let Ok(event) = heard.try_recv() {
            if let LinkEvent::Frame { bytes, .. } = event {
                frame = Some(bytes);
            }
        }
        assert_eq!(frame.is_some(), taken, "an entry goes when its frame was handed over");
        frame
    });
    if let Some(frame) = &frame {
        assert!((1..=limits::FRAME_BYTES).contains(&frame.len()));
        assert_eq!(self::entry(frame), entry, "an entry holds a frame and nothing else");
    }
    Verdict::of(frame.is_some())
}

/// The entry of a frame.
pub(crate) fn entry(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
    [b"JCP1", &length[..], &sha256(frame).0, frame].concat()
}

/// A connection with one stream, which ends after it; and how often the reader of so many bytes may have to let others run.
struct OneStream(Mutex<Option<Vec<u8>>>, usize);

impl Session for OneStream {
    type Writer = tokio::io::Sink;
    type Reader = std::io::Cursor<Vec<u8>>;

    async fn open(&self, _: Priority) -> Result<Self::Writer, Error> {
        Ok(tokio::io::sink())
    }

    async fn finish(&self, _: Self::Writer) -> Result<(), Error> {
        Ok(())
    }

    async fn accept(&self) -> Result<Self::Reader, Error> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match stream {
            Some(stream) => Ok(std::io::Cursor::new(stream)),
            // Nothing more comes; by then the stream has been read, since it waits for nothing but its turn.
            None => {
                for _ in 0..self.1 {
                    tokio::task::yield_now().await;
                }
                Err(Error::Protocol("there is no other stream"))
            }
        }
    }

    async fn closed(&self) -> Error {
        std::future::pending().await
    }

    fn close(&self, _: &Error) {}
}

/// The bytes of a stream.
pub(crate) fn stream(bytes: &[u8]) -> Verdict {
    let frames = run(read_stream(world().ids[0], bytes.to_vec()));
    let written: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    assert!(bytes.starts_with(&written), "frames are cut as they were written, from the first on");
    assert!(frames.iter().all(|frame| (1..=limits::FRAME_BYTES).contains(&frame.len())));
    let rest = &bytes[written.len()..];
    let next = rest.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
    let whole = next.is_some_and(|length| (1..=limits::FRAME_BYTES).contains(&length) && rest.len() >= 4 + length);
    assert!(!whole, "and every whole one is read");
    Verdict::of(rest.is_empty() && !frames.is_empty())
}

async fn read_stream(peer: AuthorityId, bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let (events, mut heard) = mpsc::channel(FRAMES);
    let (arrives, arrivals) = mpsc::channel(1);
    let link = session_link(peer, arrivals, events);
    let turns = 4 + bytes.len() / 64;
    arrives.try_send(OneStream(Mutex::new(Some(bytes)), turns)).ok();
    let mut frames = Vec::new();
    while let Some(event) = heard.recv().await {
        match event {
            LinkEvent::Up { .. } => {}
            LinkEvent::Frame { bytes, .. } => frames.push(bytes),
            LinkEvent::Down { .. } => break,
        }
    }
    drop(link);
    frames
}

/// A frame as it stands on a stream.
pub(crate) fn framed(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[..], frame].concat()
}
