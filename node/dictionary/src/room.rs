//! The dictionary room: which release of which line a node holds, the issuer's drafts, and the decision on a release that
//! arrives.
//!
//! Invariant: the releases of a line are numbered 1, 2, 3 … without a gap, all from one issuer, and each one's root was
//! reproduced here before its effect was returned. Snapshots are written while deciding; an effect only names the blob, so
//! [`Room::apply`] is light and a replay needs no blob but those of the releases that are read.

mod command;
mod effect;

pub use command::{ReleaseOrder, Staged};

use crate::apply::apply;
use crate::model::check_id;
use crate::release::{RELEASE_KIND, Release};
use crate::shrink::ShrinkGuard;
use crate::{Applied, Error, Snapshot, Summary};
use effect::Effect;
use jincai_exchange::{Decision, Delivery, Parts, Place, Refusal, Room, RoomError};
use jincai_journal::Blobs;
use jincai_types::{AuthorityId, Date, Digest, Fault, Millis, RecordNumber, Requirement, decode, encode};
use minicbor::{Decode, Encode};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

const ROOM: &str = "dictionary";
const PREFIX: &str = "jincai.dictionary.";
/// The line that only the ministry issues.
const NATIONAL: &str = "national";
/// Most lines on one node.
const LINES: usize = 1024;
/// Snapshots kept open; each holds its index, about 1.5 MB for a national one.
const OPEN_SNAPSHOTS: usize = 2;

/// A release that this node holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeldRelease {
    /// Its number.
    #[n(0)]
    pub number: u64,
    /// Its root.
    #[n(1)]
    pub root: Digest,
    /// Its codes.
    #[n(2)]
    pub count: u64,
    /// The blob that holds its snapshot.
    #[n(3)]
    pub blob: Digest,
    /// From which day it is in force.
    #[cbor(n(4), with = "crate::release::date_text")]
    pub effective_from: Date,
    /// What the issuer says about it.
    #[n(5)]
    pub note: String,
    /// Why it removes much, if it does.
    #[n(6)]
    pub reason: Option<String>,
    /// How many codes differ from the release before.
    #[n(7)]
    pub summary: Summary,
}

/// The issuer's next state of a line, not yet released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Draft {
    /// The blob that holds its snapshot.
    #[n(0)]
    pub blob: Digest,
    /// Its root.
    #[n(1)]
    pub root: Digest,
    /// Its codes.
    #[n(2)]
    pub count: u64,
}

#[derive(Debug, Default, Encode, Decode)]
struct Line {
    #[n(0)]
    issuer: Option<AuthorityId>,
    #[n(1)]
    releases: Vec<HeldRelease>,
    #[n(2)]
    draft: Option<Draft>,
}

impl Line {
    fn last_number(&self) -> u64 {
        self.releases.last().map_or(0, |release| release.number)
    }
}

/// What a node can say about a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineStatus {
    /// The line.
    pub line: String,
    /// Its issuer, once a release is held.
    pub issuer: Option<AuthorityId>,
    /// The number of the last release; 0 if there is none.
    pub number: u64,
    /// Root of the last release, or of the empty snapshot.
    pub root: Digest,
    /// Codes in the last release.
    pub count: u64,
    /// From which day the last release is in force, as text.
    pub effective_from: Option<String>,
    /// Root of the draft, if there is one.
    pub draft_root: Option<Digest>,
    /// Codes in the draft, if there is one.
    pub draft_count: Option<u64>,
}

/// A fault of this node, such as a full disk, that keeps a release from being applied; its lane waits meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The error's stable code.
    pub code: &'static str,
    /// What failed.
    pub reason: String,
}

/// The room.
pub struct Dictionary {
    blobs: Arc<dyn Blobs>,
    lines: BTreeMap<String, Line>,
    open: Mutex<VecDeque<(Digest, Arc<Snapshot>)>>,
    obstacle: Option<Obstacle>,
    applied: Option<Arc<Applied>>,
}

impl Dictionary {
    /// A room without lines, over the blobs that will hold its snapshots.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self { blobs, lines: BTreeMap::new(), open: Mutex::default(), obstacle: None, applied: None }
    }

    /// Shares results with other nodes of this process that keep their snapshots in the same store.
    pub fn share_applied(&mut self, applied: Arc<Applied>) {
        self.applied = Some(applied);
    }

    /// Every line, in order of name.
    #[must_use]
    pub fn status(&self) -> Vec<LineStatus> {
        let status = |(name, line): (&String, &Line)| {
            let last = line.releases.last();
            LineStatus {
                line: name.clone(),
                issuer: line.issuer,
                number: line.last_number(),
                root: last.map_or_else(|| Snapshot::empty().root(), |release| release.root),
                count: last.map_or(0, |release| release.count),
                effective_from: last.map(|release| release.effective_from.to_string()),
                draft_root: line.draft.map(|draft| draft.root),
                draft_count: line.draft.map(|draft| draft.count),
            }
        };
        self.lines.iter().map(status).collect()
    }

    /// The releases of a line that are held, oldest first.
    #[must_use]
    pub fn releases(&self, line: &str) -> &[HeldRelease] {
        self.lines.get(line).map_or(&[], |line| &line.releases)
    }

    /// A release's snapshot, `None` standing for the last one. Readers keep it as long as they like.
    pub fn snapshot(&self, line: &str, number: Option<u64>) -> Result<Arc<Snapshot>, Error> {
        let releases = self.releases(line);
        let held = match number {
            None => releases.last(),
            Some(number) => releases.iter().find(|release| release.number == number),
        };
        let unknown = || Error::UnknownRelease { line: line.into(), number: number.unwrap_or(0) };
        self.open_blob(&held.ok_or_else(unknown)?.blob)
    }

    /// The snapshot of a line's draft, if there is one.
    pub fn draft(&self, line: &str) -> Result<Option<Arc<Snapshot>>, Error> {
        let draft = self.lines.get(line).and_then(|line| line.draft);
        draft.map(|draft| self.open_blob(&draft.blob)).transpose()
    }

    /// The blobs that releases and drafts name; every other one that this room wrote was left by a decision that did not
    /// come to be applied, and may be removed while no decision and no command is under way.
    #[must_use]
    pub fn blobs_in_use(&self) -> BTreeSet<Digest> {
        let of_line = |line: &Line| -> Vec<Digest> {
            let releases = line.releases.iter().map(|release| release.blob);
            releases.chain(line.draft.map(|draft| draft.blob)).collect()
        };
        self.lines.values().flat_map(of_line).collect()
    }

    /// What keeps a release from being applied here, if the last decision met a fault of this node.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref()
    }

    fn open_blob(&self, blob: &Digest) -> Result<Arc<Snapshot>, Error> {
        // Each element is complete, so a panic elsewhere cannot have left the list unusable.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, snapshot)) = open.iter().find(|(held, _)| held == blob) {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = Arc::new(Snapshot::open(self.blobs.open(blob)?)?);
        open.truncate(OPEN_SNAPSHOTS - 1);
        open.push_front((*blob, Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// The snapshot that the next release of a line starts from.
    fn base(&self, line: &str) -> Result<Arc<Snapshot>, Error> {
        match self.releases(line).last() {
            Some(release) => self.open_blob(&release.blob),
            None => Ok(Arc::new(Snapshot::empty())),
        }
    }

    /// Refuses an authority that does not issue the line. The ministry issues the national line; the first release
    /// settles who issues any other.
    fn check_issuer(&self, line: &str, authority: AuthorityId) -> Result<(), Error> {
        check_id("line", line)?;
        let known = self.lines.get(line);
        if known.is_none() && self.lines.len() >= LINES {
            return Err(Error::TooLarge { what: "lines", limit: LINES as u64 });
        }
        let national = (line == NATIONAL).then_some(AuthorityId::MINISTRY);
        match national.or_else(|| known?.issuer) {
            Some(issuer) if issuer != authority => Err(Error::NotIssuer { line: line.into(), issuer, authority }),
            _ => Ok(()),
        }
    }

    fn decide_release(&self, delivery: &Delivery<'_>, parts: &dyn Parts) -> Result<Decision, Error> {
        if delivery.attributes.kind != RELEASE_KIND {
            return Err(Error::UnknownKind { kind: delivery.attributes.kind.clone() });
        }
        let release = Release::read(delivery.payload)?;
        let (line, number) = (&release.line, release.number);
        if delivery.lane.origin != release.issuer {
            let (line, issuer, authority) = (line.clone(), release.issuer, delivery.lane.origin);
            return Err(Error::NotIssuer { line, issuer, authority });
        }
        self.check_issuer(line, release.issuer)?;
        if let Some(held) = self.releases(line).iter().find(|held| held.number == number) {
            let line = line.clone();
            return Err(match held.root == release.root {
                true => Error::AlreadyHeld { line, number },
                false => Error::Conflict { line, number, held: held.root, named: release.root },
            });
        }
        if number > self.releases(line).len() as u64 + 1 {
            return Ok(Decision::Wait(Requirement::Release { line: line.clone(), number: number - 1 }));
        }
        for part in release.parts() {
            // A part that `requires` does not name is hidden from us for good: waiting for it would be for ever.
            if !delivery.attributes.requires.contains(&Requirement::Bulk(*part)) {
                return Err(Error::Delta { reason: "a part is not named in requires" });
            }
            if parts.part(part).is_none() {
                return Ok(Decision::Wait(Requirement::Bulk(*part)));
            }
        }
        let compute = || {
            let base = self.base(line)?;
            let operations = ShrinkGuard::new(&base, release.reason.as_deref(), release.operations(parts));
            apply(&base, &release.step(), operations, &*self.blobs)
        };
        let written = match (&self.applied, self.releases(line).last()) {
            (Some(applied), Some(last)) => applied.get_or(last.root, delivery.payload, compute)?,
            (Some(applied), None) => applied.get_or(Snapshot::empty().root(), delivery.payload, compute)?,
            (None, _) => compute()?,
        };
        let effect = Effect::released(&release, written.blob);
        Ok(Decision::Apply { effect: effect.to_bytes(), messages: Vec::new() })
    }

    fn apply_effect(&mut self, effect: Effect) -> Result<(), &'static str> {
        match effect {
            Effect::Draft { line, draft } => self.lines.entry(line).or_default().draft = Some(draft),
            Effect::Discarded { line } => {
                let known = self.lines.get_mut(&line).ok_or("a draft of an unknown line is discarded")?;
                known.draft = None;
                if known.releases.is_empty() {
                    self.lines.remove(&line);
                }
            }
            Effect::Released { line, issuer, release } => {
                let known = self.lines.entry(line).or_default();
                if release.number != known.last_number() + 1 {
                    return Err("a release does not follow the one before");
                }
                if *known.issuer.get_or_insert(issuer) != issuer {
                    return Err("a line has two issuers");
                }
                // A release of our own uses its draft up.
                known.draft = known.draft.filter(|draft| draft.root != release.root);
                known.releases.push(release);
            }
        }
        Ok(())
    }
}

impl Room for Dictionary {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    /// A release that arrives twice is refused as held already; one that meets a fault of this node is not lost to it, but
    /// waits and is decided again ([`Dictionary::obstacle`] says why).
    fn decide(&mut self, _: Millis, delivery: &Delivery<'_>, parts: &dyn Parts) -> Decision {
        let decided = self.decide_release(delivery, parts);
        self.obstacle = None;
        decided.unwrap_or_else(|error| {
            let (code, reason) = (error.code(), error.to_string());
            if error.fault() == Fault::Peer {
                return Decision::Refuse(Refusal { code, reason });
            }
            self.obstacle = Some(Obstacle { code, reason });
            // The release before is held, or the error would not have come: the condition holds at the next attempt.
            let read = Release::read(delivery.payload);
            let (line, number) = read.map_or_else(|_| (NATIONAL.into(), 0), |r| (r.line, r.number - 1));
            Decision::Wait(Requirement::Release { line, number })
        })
    }

    fn apply(&mut self, place: &Place, effect: &[u8]) -> Result<(), RoomError> {
        let applied = Effect::read(effect).and_then(|effect| self.apply_effect(effect).map_err(Into::into));
        applied.map_err(|reason: String| RoomError { room: ROOM, reason: format!("record {}: {reason}", place.number) })
    }

    fn meets(&self, requirement: &Requirement) -> Option<bool> {
        match requirement {
            Requirement::Release { line, number } => Some(self.lines.get(line).map_or(0, Line::last_number) >= *number),
            Requirement::Spec { .. } | Requirement::Bulk(_) => None,
        }
    }

    fn save(&self) -> Vec<u8> {
        let lines: Vec<_> = self.lines.iter().collect();
        encode(&(effect::FORMAT, lines))
    }

    fn load(&mut self, saved: &[u8]) -> Result<(), RoomError> {
        let wrong = |reason: String| RoomError { room: ROOM, reason };
        let read = decode::<(u8, Vec<(String, Line)>)>("snapshot of the dictionary", saved, saved.len());
        match read.map_err(|error| wrong(error.to_string()))? {
            (effect::FORMAT, lines) => self.lines = lines.into_iter().collect(),
            (format, _) => return Err(wrong(format!("a snapshot's format is {format}, not {}", effect::FORMAT))),
        }
        Ok(())
    }

    /// None: releases and drafts name blobs.
    fn live(&self, _: &mut dyn FnMut(RecordNumber)) {}
}
