//! Golden vectors for second implementations: bytes, what production code makes of them, or the code with which it refuses
//! them. `tests/kit/vectors` holds them as JSON; docs/kit.md tells the form.
//!
//! The same bytes on every run: whatever is random comes from a seed, and keys are read anew for each batch, because a node's
//! keys remember to whom they have sealed before.

mod made;

use crate::world::{NOW, world};
use jincai_crypto::{
    BatchView, CardChain, Directory, EvidenceReport, Purpose, Statement, Verified, signer_of, verify_evidence,
};
use jincai_exchange::{Frame, HeldBack, Receipt, ReceiptList, SlotValue, Waiting};
use jincai_types::{Attributes, Destination, Digest, Epoch, Lane, LanePosition, decode_canonical, hex, limits, unhex};
use minicbor::bytes::ByteArray;
use serde_json::{Value, json};

/// The files, and what the bytes of each are.
pub const FILES: [(&str, &str); 8] = [
    ("frames", "a link frame"),
    ("attributes", "the attributes of a message"),
    ("statements", "the payload of a statement, without its signature"),
    ("batches", "a sealed batch, read by the ministry"),
    ("receipts", "a signed list of receipts, of the county for the province"),
    ("slots", "a signed slot of the county"),
    ("cards", "a chain of cards"),
    ("evidence", "exported evidence"),
];

/// One of them.
pub struct Vector {
    /// What it shows.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The code that must refuse it; `None`: it is good.
    pub refusal: Option<&'static str>,
}

/// What production code makes of the bytes of a file: their meaning, or the code of its refusal.
pub fn judge(file: &str, bytes: &[u8]) -> Result<Value, &'static str> {
    match file {
        "frames" => Frame::from_bytes(bytes).map(|frame| of_frame(&frame)).map_err(|e| e.code()),
        "attributes" => canonical::<Attributes>(bytes).map(|a| of_attributes(&a)),
        "statements" => match Statement::from_bytes(bytes) {
            Ok(statement) => Ok(of_statement(&statement, Statement::digest(bytes))),
            Err(error) => Err(error.code()),
        },
        "batches" => of_batch(bytes).map_err(|e| e.code()),
        "receipts" => {
            let verified = world().directory.verify(Purpose::Receipts, bytes, world().ids[2]);
            canonical::<ReceiptList>(&verified.map_err(|e| e.code())?).map(|list| of_receipts(&list))
        }
        "slots" => of_slot(bytes),
        "cards" => of_cards(&canonical::<CardChain>(bytes)?),
        "evidence" => verify_evidence(bytes, Some(world().root)).map(|r| of_evidence(&r)).map_err(|e| e.code()),
        other => panic!("there is no file of vectors «{other}»"),
    }
}

fn canonical<T>(bytes: &[u8]) -> Result<T, &'static str>
where
    T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>,
{
    decode_canonical("vector", bytes, limits::FRAME_BYTES).map_err(|e| e.code())
}

/// The content of a file as today's encoders write it, and what its name is.
#[must_use]
pub fn files() -> Vec<(String, String)> {
    let of = |(file, what): (&str, &str)| {
        let vectors: Vec<Value> = made::vectors(file).iter().map(|vector| of_vector(file, vector)).collect();
        (file.to_owned(), json!({ "format": 1, "what": what, "vectors": vectors }))
    };
    let all = FILES.into_iter().map(of).chain([("keys".to_owned(), keys())]);
    all.map(|(file, value)| (format!("{file}.json"), format!("{value:#}\n"))).collect()
}

fn of_vector(file: &str, vector: &Vector) -> Value {
    let (name, bytes) = (vector.name, hex(&vector.bytes));
    match (vector.refusal, judge(file, &vector.bytes)) {
        (None, Ok(meaning)) => json!({ "name": name, "hex": bytes, "meaning": meaning }),
        (Some(wanted), Err(found)) if wanted == found => json!({ "name": name, "hex": bytes, "refusal": wanted }),
        (wanted, found) => panic!("{file}/{name}: {found:?}, and {wanted:?} is wanted"),
    }
}

/// Reads a file again: the number of its vectors, all of which are judged as it says.
#[must_use]
pub fn check(file: &str, content: &str) -> usize {
    let content: Value = serde_json::from_str(content).expect("JSON");
    let vectors = content["vectors"].as_array().expect("vectors");
    for vector in vectors {
        let text = vector["hex"].as_str().expect("bytes");
        let digits = (0..text.len()).step_by(2).map(|at| unhex::<1>(&text[at..at + 2]).expect("hexadecimal")[0]);
        let judged = judge(file, &digits.collect::<Vec<u8>>());
        match vector["refusal"].as_str() {
            None => assert_eq!(judged.as_ref(), Ok(&vector["meaning"]), "{file}: {}", vector["name"]),
            Some(code) => assert_eq!(judged, Err(code), "{file}: {}", vector["name"]),
        }
    }
    vectors.len()
}

/// The secret keys of the three authorities, and the root that they hang on.
fn keys() -> Value {
    type KeyFile = (u8, ByteArray<32>, ByteArray<32>, ByteArray<32>, ByteArray<32>);
    let world = world();
    let authorities = world.ids.iter().zip(&world.keys).map(|(id, keys)| {
        let (_, signing, authority, tls, encryption): KeyFile =
            jincai_types::decode("key file", &keys.to_bytes(), 4096).expect("a key file");
        let public = keys.public().expect("good keys");
        json!({
            "authority": id,
            "secret": {
                "signing": hex(&*signing), "encryption": hex(&*encryption), "tls": hex(&*tls),
                "authority": hex(&*authority),
            },
            "public": {
                "signing": hex(&*public.signing), "encryption": hex(&*public.encryption), "tls": hex(&*public.tls),
                "authority": hex(&*public.authority),
            },
        })
    });
    let authorities: Vec<Value> = authorities.collect();
    json!({ "format": 1, "what": "test keys: everybody has them", "root": world.root, "now": NOW, "authorities": authorities })
}

fn of_epoch(epoch: Epoch) -> Value {
    json!([epoch.number, epoch.salt])
}

fn of_position(position: LanePosition) -> Value {
    json!({ "epoch": of_epoch(position.epoch), "sequence": position.sequence, "digest": position.digest })
}

fn of_end((lane, position): &(Lane, LanePosition)) -> Value {
    json!({ "lane": lane.to_string(), "position": of_position(*position) })
}

fn of_frame(frame: &Frame<'_>) -> Value {
    let ids = |ids: &[ByteArray<16>]| ids.iter().map(|id| hex(&**id)).collect::<Vec<_>>();
    match frame {
        Frame::Hello { low, high, authority, epoch, heard, known, restored } => json!({
            "kind": "hello", "low": low, "high": high, "authority": authority, "epoch": of_epoch(*epoch),
            "heard": heard, "known": of_epoch(*known), "restored": restored,
        }),
        Frame::Batch { hop, bytes } => json!({
            "kind": "batch", "floor": of_position(hop.floor), "after": of_position(hop.after), "batch": hex(bytes),
        }),
        Frame::Durable { lane, position } => json!({ "kind": "durable", "end": of_end(&(*lane, *position)) }),
        Frame::Receipts { signed } => json!({ "kind": "receipts", "signed": hex(signed) }),
        Frame::Gap { lane, have } => json!({ "kind": "gap", "have": of_end(&(*lane, *have)) }),
        Frame::Slot { signed } => json!({ "kind": "slot", "signed": hex(signed) }),
        Frame::Ends { lanes, more } => {
            json!({ "kind": "ends", "lanes": lanes.iter().map(of_end).collect::<Vec<_>>(), "more": more })
        }
        Frame::Intake { open, held } => {
            let one = |h: &HeldBack| json!({ "hop": h.hop, "class": h.class.name(), "why": format!("{:?}", h.why), "at": h.at, "since": h.since });
            json!({ "kind": "intake", "open": open, "held": held.iter().map(one).collect::<Vec<_>>() })
        }
        Frame::Offer { ids: named } => json!({ "kind": "offer", "ids": ids(named) }),
        Frame::Want { ids: named } => json!({ "kind": "want", "ids": ids(named) }),
        Frame::Demand { granted, waiting } => {
            let one = |w: &Waiting| json!({ "bytes": w.bytes, "next": w.next, "age_ms": w.age });
            json!({ "kind": "demand", "granted": granted, "waiting": waiting.iter().map(one).collect::<Vec<_>>() })
        }
        Frame::Grant { windows } => json!({ "kind": "grant", "windows": windows }),
    }
}

fn of_attributes(attributes: &Attributes) -> Value {
    let requires: Vec<String> = attributes.requires.iter().map(ToString::to_string).collect();
    json!({
        "id": attributes.id, "source": attributes.source, "type": attributes.kind, "time_ms": attributes.time,
        "subject": attributes.subject, "requires": requires, "extensions": attributes.extensions,
    })
}

fn of_statement(statement: &Statement, digest: Digest) -> Value {
    json!({
        "lane": statement.lane.to_string(), "epoch": of_epoch(statement.epoch), "first": statement.first,
        "last": statement.last, "previous": of_position(statement.previous), "root": statement.root,
        "encrypted": statement.encrypted, "sealed_at": statement.sealed_at, "digest": digest,
    })
}

fn of_batch(bytes: &[u8]) -> Result<Value, jincai_crypto::Error> {
    let world = world();
    let view: Verified<BatchView<'_>> = BatchView::parse(bytes)?.verify(&world.directory)?;
    let mut opener = view.opener(world.ids[0], &world.keys[0])?;
    let messages = (0..view.items.len()).map(|index| {
        let (attributes, commitment) = (of_attributes(&view.attributes(index)?), hex(view.items[index].commitment));
        let opened = opener.open(&view, index)?;
        let (salt, payload) = (hex(opened.salt), hex(opened.payload));
        Ok(json!({ "attributes": attributes, "commitment": commitment, "salt": salt, "payload": payload }))
    });
    let messages: Vec<Value> = messages.collect::<Result<_, jincai_crypto::Error>>()?;
    Ok(json!({ "statement": of_statement(&view.statement, view.digest), "messages": messages }))
}

fn of_receipt(receipt: &Receipt) -> Value {
    json!({ "end": of_end(&(receipt.lane, receipt.position)), "refusals": receipt.refusals })
}

fn of_receipts(list: &ReceiptList) -> Value {
    let receipts: Vec<Value> = list.receipts.iter().map(of_receipt).collect();
    let (issuer, epoch, neighbour) = (list.issuer, of_epoch(list.epoch), list.neighbour);
    json!({ "version": list.version, "issuer": issuer, "epoch": epoch, "neighbour": neighbour, "receipts": receipts })
}

fn of_slot(bytes: &[u8]) -> Result<Value, &'static str> {
    // The key is that of whom it claims to be from.
    let (payload, _) = signer_of(Purpose::Slot, bytes).map_err(|e| e.code())?;
    let slot: SlotValue = canonical(&payload)?;
    world().directory.verify(Purpose::Slot, bytes, slot.issuer).map_err(|e| e.code())?;
    let value = match slot.name.split_once(':').map_or(slot.name.as_str(), |(name, _)| name) {
        "receipt" => of_receipt(&canonical::<Receipt>(&slot.value)?),
        "end" => of_end(&canonical::<(Lane, LanePosition)>(&slot.value)?),
        "gone" => {
            let (lane, from, to) = canonical::<(Lane, LanePosition, LanePosition)>(&slot.value)?;
            json!({ "lane": lane.to_string(), "from": of_position(from), "to": of_position(to) })
        }
        "restored" | "epoch" => of_epoch(canonical::<Epoch>(&slot.value)?),
        _ => of_cards(&canonical::<CardChain>(&slot.value)?)?,
    };
    Ok(json!({
        "version": slot.version, "issuer": slot.issuer, "epoch": of_epoch(slot.epoch), "name": slot.name,
        "number": slot.number, "to": slot.to.as_ref().map(Destination::to_string), "value": value,
    }))
}

fn of_cards(chain: &CardChain) -> Result<Value, &'static str> {
    let mut directory = Directory::new(world().root);
    let (authority, _) = directory.add(chain, NOW).map_err(|e| e.code())?;
    let ids = directory.tree().all();
    let cards = ids.filter_map(|id| directory.card(id)).map(|card| {
        json!({
            "authority": card.authority, "superior": card.superior, "serial": card.serial,
            "signing": hex(&*card.keys.signing), "encryption": hex(&*card.keys.encryption),
            "tls": hex(&*card.keys.tls), "authority_key": hex(&*card.keys.authority),
            "not_before": card.not_before, "not_after": card.not_after,
        })
    });
    Ok(json!({ "proves": authority, "cards": cards.collect::<Vec<_>>() }))
}

fn of_evidence(report: &EvidenceReport) -> Value {
    json!({
        "root": report.root, "lane": report.statement.lane.to_string(), "epoch": of_epoch(report.statement.epoch),
        "first": report.statement.first, "last": report.statement.last, "statement_root": report.statement.root,
        "attributes": of_attributes(&report.attributes), "payload": report.payload.as_ref().map(|bytes| hex(bytes)),
    })
}
