//! `jincai kit node`: the production core as a system under test, so that the judge can be held against the implementation
//! that wrote the protocol. It reads `sut.json` and keeps to docs/kit.md like anybody else.

use super::driver::Driver;
use super::sut::Applied;
use crate::clock;
use crate::error::{Error, read};
use bytes::Bytes;
use jincai_core::Event;
use jincai_crypto::{BatchView, CardChain, Directory, KeyRing, SystemEntropy};
use jincai_exchange::record::{kind, split_batch_record};
use jincai_exchange::{LinkKind, Setup, read_batch};
use jincai_journal::{Blobs, DirBlobs, DirDisk, Log};
use jincai_policies::LinkPolicy;
use jincai_transports::{DropConfig, LinkEvent, open_drop};
use jincai_types::{AuthorityId, Destination, Digest, Priority, encode, hex, unhex};
use minicbor::bytes::ByteArray;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const POLL: Duration = Duration::from_millis(20);
const EVENTS: usize = 256;
const MOST_WAITING: usize = 4096;
/// A mailbox is waited for four times as long as `retry_ms` says.
const MAILBOX: u64 = 4;

/// What of `sut.json` this node needs.
#[derive(Deserialize)]
struct Given {
    authority: AuthorityId,
    signing_key: String,
    encryption_key: String,
    cards: Vec<String>,
    root: Digest,
    peer: AuthorityId,
    peer_cards: Vec<String>,
    incoming: PathBuf,
    outgoing: PathBuf,
    submit: PathBuf,
    data: PathBuf,
    applied: PathBuf,
    retry_ms: u64,
    receipt_ms: u64,
}

/// A message to be sent.
#[derive(Deserialize)]
struct Submitted {
    id: String,
    payload: String,
}

struct Node {
    given: Given,
    driver: Driver<DirDisk>,
    keys: KeyRing,
    /// Ids of messages that its journal holds as its own.
    sent: BTreeSet<String>,
    /// Lines of the file of what was applied.
    written: u64,
}

/// Runs until it is killed.
pub(crate) fn run(path: &Path) -> Result<(), Error> {
    let broken = |reason: String| Error::Config { path: path.to_owned(), reason };
    let given: Given = serde_json::from_slice(&read(path)?).map_err(|e| broken(e.to_string()))?;
    let mut node = Node::open(given)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::System { what: "the runtime", source })?;
    runtime.block_on(node.go_on())
}

fn bytes(text: &str) -> Result<Vec<u8>, Error> {
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or_default());
    pairs.map(|pair| Ok(unhex::<1>(pair)?[0])).collect()
}

fn chain(cards: &[String]) -> Result<CardChain, Error> {
    Ok(CardChain(cards.iter().map(|card| bytes(card).map(Into::into)).collect::<Result<_, Error>>()?))
}

impl Node {
    fn open(given: Given) -> Result<Self, Error> {
        let signing = ByteArray::from(unhex::<32>(&given.signing_key)?);
        let encryption = ByteArray::from(unhex::<32>(&given.encryption_key)?);
        // It issues no certificates and speaks no TLS: the signing key stands in for the keys that it does not use.
        let file = encode(&(1u8, signing, signing, signing, encryption));
        let mut directory = Directory::new(given.root);
        for cards in [&given.cards, &given.peer_cards] {
            directory.add(&chain(cards)?, clock::now())?;
        }
        let setup = Setup {
            authority: given.authority,
            keys: KeyRing::from_bytes(&file)?,
            entropy: Box::new(SystemEntropy::default()),
            directory,
            policy: LinkPolicy {
                retry_ms: given.retry_ms / MAILBOX,
                receipt_ms: given.receipt_ms,
                ..LinkPolicy::default()
            },
            limits: BTreeMap::new(),
        };
        let blobs: Arc<dyn Blobs> = Arc::new(DirBlobs::open(&given.data.join("blobs"))?);
        let driver = Driver::open(DirDisk::open(&given.data.join("journal"))?, blobs, setup)?;
        let mut node = Self { given, driver, keys: KeyRing::from_bytes(&file)?, sent: BTreeSet::new(), written: 0 };
        node.sent = node.sent_before()?;
        if node.given.applied.exists() {
            let lines = read(&node.given.applied)?;
            node.written = lines.split(|byte| *byte == b'\n').count().saturating_sub(1) as u64;
        }
        Ok(node)
    }

    /// What an earlier run took, and may not have been able to remove from the directory.
    fn sent_before(&self) -> Result<BTreeSet<String>, Error> {
        let mut ids = BTreeSet::new();
        let log: &dyn Log = self.driver.log();
        log.replay(1, &mut |stored| {
            let own = split_batch_record(&stored.payload).ok().filter(|(from, _)| from.is_none());
            if let Some((_, start)) = own.filter(|_| stored.kind == kind::BATCH)
                && let Ok(view) = BatchView::parse(&stored.payload[start..])
            {
                let attributes = (0..view.items.len()).filter_map(|index| view.attributes(index).ok());
                ids.extend(attributes.map(|attributes| attributes.id));
            }
            Ok(())
        })?;
        Ok(ids)
    }

    async fn go_on(&mut self) -> Result<(), Error> {
        let (events, mut arrivals) = mpsc::channel(EVENTS);
        let mailbox = DropConfig {
            peer: self.given.peer,
            outgoing: self.given.outgoing.clone(),
            incoming: self.given.incoming.clone(),
            poll: POLL,
            most_waiting: MOST_WAITING,
        };
        let link = open_drop(mailbox, events)?;
        loop {
            let mut event = tokio::time::timeout(POLL, arrivals.recv()).await.ok().flatten();
            while let Some(now) = event {
                self.take(now)?;
                event = arrivals.try_recv().ok();
            }
            self.step(Event::Tick)?;
            let taken = self.submitted()?;
            for outbound in self.driver.turn()? {
                // What a full or broken link loses is sent again.
                drop(link.try_send(outbound.class, Bytes::from(outbound.bytes)));
            }
            // Everything is durable here: the turn has seen to that.
            self.list_applied()?;
            for path in taken {
                std::fs::remove_file(&path).map_err(|source| Error::File { path, source })?;
            }
        }
    }

    fn take(&mut self, event: LinkEvent) -> Result<(), Error> {
        self.step(match event {
            LinkEvent::Up { peer, .. } => Event::LinkUp(peer, LinkKind::Mailbox),
            LinkEvent::Down { peer, .. } => Event::LinkDown(peer),
            LinkEvent::Frame { peer, bytes } => Event::Frame(peer, bytes),
        })
    }

    fn step(&mut self, event: Event) -> Result<(), Error> {
        match self.driver.step(event) {
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                crate::output::complain(&format!("refused: {error} [{}]", error.code()));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Takes the messages that lie ready; returns their files, to be removed once the messages are durable.
    fn submitted(&mut self) -> Result<Vec<PathBuf>, Error> {
        let folder = |source| Error::File { path: self.given.submit.clone(), source };
        let entries = std::fs::read_dir(&self.given.submit).map_err(folder)?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        for path in &paths {
            let broken = |e: serde_json::Error| Error::Config { path: path.clone(), reason: e.to_string() };
            let message: Submitted = serde_json::from_slice(&read(path)?).map_err(broken)?;
            if self.sent.insert(message.id.clone()) {
                let (to, payload) = (Destination::Authority(self.given.peer), bytes(&message.payload)?);
                let named = (message.id, String::new());
                self.driver.core().submit_note(clock::now(), to, Priority::Record, named, payload)?;
            }
        }
        Ok(paths)
    }

    /// Adds what the file of what was applied lacks.
    fn list_applied(&mut self) -> Result<(), Error> {
        let inbox = &self.driver.core().rooms().inbox;
        let lacking = usize::try_from(inbox.count().saturating_sub(self.written)).unwrap_or(usize::MAX);
        if lacking == 0 {
            return Ok(());
        }
        let notes: Vec<_> = inbox.notes().map(|note| (note.record, note.index, note.id.clone())).collect();
        let mut lines = Vec::new();
        for (record, index, id) in notes.iter().skip(notes.len().saturating_sub(lacking)) {
            let batch = read_batch(self.driver.log(), *record).map_err(jincai_core::Error::from)?;
            let view = BatchView::parse(&batch)?;
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            let mut opener = view.opener(self.given.authority, &self.keys)?;
            let payload = hex(opener.open(&view, index)?.payload);
            let (lane, sequence) = (view.statement.lane.to_string(), view.sequence(index));
            let line = Applied { lane, sequence, id: id.clone(), payload };
            serde_json::to_writer(&mut lines, &line).map_err(|e| Error::Check(e.to_string()))?;
            lines.push(b'\n');
        }
        let file = |source| Error::File { path: self.given.applied.clone(), source };
        let mut applied =
            std::fs::OpenOptions::new().create(true).append(true).open(&self.given.applied).map_err(file)?;
        applied.write_all(&lines).map_err(file)?;
        self.written += lacking as u64;
        Ok(())
    }
}
