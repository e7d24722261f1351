//! What the tests share: code sets made by rule, an issuing room, and messages handed from room to room.

mod files;
mod model;
mod release;

use crate::{Dictionary, ReleaseOrder, Staged};
use jincai_exchange::{Decision, Delivery, Outgoing, Parts, Place, Room};
use jincai_journal::MemoryBlobs;
use jincai_types::{AuthorityId, Date, Digest, Epoch, Lane, Priority};
use std::collections::BTreeMap;
use std::sync::Arc;

const COUNTY: &str = "370502000";

fn authority(text: &str) -> AuthorityId {
    text.parse().expect("nine digits")
}

fn day() -> Date {
    Date::new(2026, 1, 1).expect("a day that exists")
}

/// A file of `count` codes below one top code, named by `name`.
fn file(count: usize, name: impl Fn(usize) -> String) -> String {
    let mut out = String::from("code,name,level,parent\n00,top,1,\n");
    for number in 0..count {
        out.push_str(&format!("{number:06},{},2,00\n", name(number)));
    }
    out
}

fn room() -> Dictionary {
    Dictionary::new(Arc::new(MemoryBlobs::default()))
}

/// A record that holds nothing but the effect of a local command.
fn place(number: u64) -> Place {
    Place { number, offset: 0, cause: None }
}

/// Imports a file into a line's draft.
fn draft(room: &mut Dictionary, line: &str, set: &str, csv: &str) {
    let own = AuthorityId::MINISTRY;
    let (effect, _) = room.import(line, set, "a set", &mut csv.as_bytes(), own).expect("a good file");
    room.apply(&place(1), &effect).expect("an effect of its own");
}

fn order(line: &str) -> ReleaseOrder<'_> {
    ReleaseOrder { line, effective_from: day(), note: "", reason: None }
}

/// Imports a file into the national line and releases it.
fn publish(room: &mut Dictionary, set: &str, csv: &str) -> Staged {
    draft(room, "national", set, csv);
    let staged = room.release(order("national"), AuthorityId::MINISTRY, 7).expect("there are changes");
    room.apply(&place(2), &staged.effect).expect("an effect of its own");
    staged
}

/// Bulk parts by digest, as they arrived.
#[derive(Default)]
struct Arrived(BTreeMap<Digest, Vec<u8>>);

impl Parts for Arrived {
    fn part(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.get(digest).cloned()
    }
}

/// The parts among a release's messages, and its manifest.
fn split(staged: &Staged) -> (Arrived, &Outgoing) {
    let (manifest, parts) = staged.messages.split_last().expect("at least the manifest");
    let by_digest = |part: &Outgoing| (part.attributes.id.parse().expect("a digest"), part.payload.clone());
    (Arrived(parts.iter().map(by_digest).collect()), manifest)
}

/// Hands a manifest over as if `origin` had sent it.
fn decide(room: &mut Dictionary, origin: AuthorityId, manifest: &Outgoing, parts: &dyn Parts) -> Decision {
    let lane = Lane { origin, destination: manifest.destination, class: Priority::Record };
    let delivery = Delivery {
        lane,
        epoch: Epoch::default(),
        sequence: 1,
        attributes: &manifest.attributes,
        payload: &manifest.payload,
        commitment: &[],
        salt: &[],
        record: 1,
        index: 0,
    };
    room.decide(9, &delivery, parts)
}

/// Delivers a release of the ministry's to a room that must apply it.
fn deliver(room: &mut Dictionary, staged: &Staged) {
    let (parts, manifest) = split(staged);
    match decide(room, AuthorityId::MINISTRY, manifest, &parts) {
        Decision::Apply { effect, messages } => {
            assert!(messages.is_empty());
            room.apply(&place(3), &effect).expect("an effect of its own");
        }
        other => panic!("not applied: {other:?}"),
    }
}

/// The code of the refusal that must come.
fn refused(decision: Decision) -> &'static str {
    match decision {
        Decision::Refuse(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}
