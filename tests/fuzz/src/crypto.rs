//! What is signed, sealed and proven.

use crate::Verdict;
use crate::read::{Input, piece};
use crate::text::canonical;
use crate::world::{NOW, World, world};
use jincai_crypto::{
    BatchView, Card, CardChain, Directory, Evidence, Hasher, KeyRing, Purpose, Statement, export_evidence, merkle_root,
    peer_authority, sha256, signer_of, verify, verify_evidence,
};
use jincai_types::{Digest, decode, decode_canonical, encode, limits};
use minicbor::bytes::ByteVec;
use rustls_pki_types::CertificateDer;

const PURPOSES: [Purpose; 6] =
    [Purpose::Statement, Purpose::Wraps, Purpose::Card, Purpose::Receipts, Purpose::Slot, Purpose::Enrolment];

/// A batch's parts before anything is signed: statement, wrapped keys, messages (attributes, content, commitment).
pub(crate) type Draft = (ByteVec, ByteVec, Vec<(ByteVec, ByteVec, ByteVec)>);

/// A statement's payload.
pub(crate) fn statement(bytes: &[u8]) -> Verdict {
    let Ok(statement) = Statement::from_bytes(bytes) else { return Verdict::Refused };
    assert_eq!(statement.to_bytes(), bytes);
    assert!((1..=limits::BATCH_MESSAGES).contains(&statement.count()));
    let end = statement.end(Statement::digest(bytes));
    assert!(end.key() > statement.previous.key(), "a chain only grows");
    assert!(end.sequence.checked_add(1).is_some(), "and can go on");
    assert!(statement.previous.sequence.checked_add(1).is_some(), "from wherever it stood");
    Verdict::Accepted
}

/// A batch as it travels.
pub(crate) fn batch(bytes: &[u8]) -> Verdict {
    let Ok(view) = BatchView::parse(bytes) else { return Verdict::Refused };
    let world = world();
    assert!(bytes.len() <= limits::BATCH_BYTES && view.items.len() == view.statement.count());
    read_messages(world, &view);
    let digest = view.digest;
    if view.verify(&world.directory).is_ok() {
        proves_itself(world, bytes, digest);
    }
    Verdict::Accepted
}

fn read_messages(world: &World, view: &BatchView<'_>) {
    let mut opener = view.opener(world.ids[0], &world.keys[0]).ok();
    for (index, item) in view.items.iter().enumerate() {
        assert!((view.statement.first..=view.statement.last).contains(&view.sequence(index)));
        if let Ok(attributes) = view.attributes(index) {
            assert_eq!(encode(&attributes), item.attributes);
        }
        if let Some(Ok(open)) = opener.as_mut().map(|opener| opener.open(view, index)) {
            let content = [open.salt, open.payload].concat();
            let encrypted = view.statement.encrypted;
            let named = if encrypted { sha256(&content).0 == item.commitment } else { content == item.content };
            assert!(named && (!encrypted || open.commitment == item.commitment), "what is opened is what was sealed");
        }
    }
}

/// A batch that verifies does so again, and each of its messages proves itself alone.
fn proves_itself(world: &World, bytes: &[u8], digest: Digest) {
    let again = BatchView::parse(bytes).and_then(|view| view.verify(&world.directory)).expect("it verified before");
    assert_eq!(again.digest, digest);
    for index in [0, again.items.len() - 1] {
        let Ok(evidence) = export_evidence(bytes, index, &world.directory, None) else { continue };
        match verify_evidence(&evidence, Some(world.root)) {
            Ok(report) => assert_eq!(report.statement, again.statement),
            // Its time may lie outside the cards', and its attributes may be unreadable.
            Err(error) => drop(error.to_string()),
        }
    }
}

/// A batch whose signatures and root are right, whatever it says.
pub(crate) fn batch_signed(bytes: &[u8]) -> Verdict {
    match signed_batch(world(), 2, bytes) {
        Some(wire) => batch(&wire),
        None => Verdict::Refused,
    }
}

/// Signs a draft as the authority at this place.
pub(crate) fn signed_batch(world: &World, by: usize, draft: &[u8]) -> Option<Vec<u8>> {
    let (statement, wraps, items): Draft = decode("draft", draft, limits::BATCH_BYTES).ok()?;
    let leaves: Vec<Digest> = items.iter().map(|(a, c, m)| leaf(a, c, m)).collect();
    let mut statement: Statement = decode("statement", &statement, limits::BATCH_BYTES).ok()?;
    statement.root = merkle_root(&leaves);
    let payload = statement.to_bytes();
    let wraps = if wraps.is_empty() { Vec::new() } else { world.sign(by, Purpose::Wraps, &wraps) };
    let signed = world.sign(by, Purpose::Statement, &payload);
    Some(encode(&(1u8, ByteVec::from(signed), ByteVec::from(wraps), items)))
}

fn leaf(attributes: &[u8], content: &[u8], commitment: &[u8]) -> Digest {
    let content = sha256(content);
    let commitment = if commitment.is_empty() { &content.0 } else { commitment };
    Hasher::default().with(&[0]).with(&sha256(attributes).0).with(&content.0).with(commitment).finish()
}

/// A chain of cards.
pub(crate) fn cards(bytes: &[u8]) -> Verdict {
    let Ok(chain) = decode_canonical::<CardChain>("cards", bytes, limits::BATCH_BYTES) else { return Verdict::Refused };
    if let Ok(card) = chain.last() {
        assert!(canonical::<Card>(&encode(&card)));
    }
    let mut directory = Directory::new(world().root);
    let Ok((authority, new)) = directory.add(&chain, NOW) else {
        assert_eq!(directory.tree().all().count(), 0, "nothing is added unless the whole chain verifies");
        return Verdict::Refused;
    };
    assert!(new && directory.card(authority).is_some());
    let held = directory.chain(authority).expect("the whole chain was added");
    assert_eq!(held, chain, "it is handed on as it came");
    assert_eq!(directory.add(&held, NOW).ok(), Some((authority, false)), "again it is nothing new");
    Verdict::Accepted
}

/// A chain of cards in which each card, whatever it says, is signed by whom the input names.
pub(crate) fn cards_signed(bytes: &[u8]) -> Verdict {
    let (mut input, mut chain) = (Input(bytes), CardChain::default());
    while !input.is_empty() && chain.0.len() < 20 {
        let by = usize::from(input.byte());
        chain = chain.with(world().sign(by, Purpose::Card, input.piece()));
    }
    cards(&encode(&chain))
}

/// A node's key file.
pub(crate) fn key_ring(bytes: &[u8]) -> Verdict {
    let Ok(keys) = KeyRing::from_bytes(bytes) else { return Verdict::Refused };
    let again = KeyRing::from_bytes(&keys.to_bytes()).expect("what is written is read");
    assert_eq!(*again.to_bytes(), *keys.to_bytes());
    assert_eq!(again.public().ok(), keys.public().ok());
    Verdict::Accepted
}

/// Anything signed.
pub(crate) fn signature(bytes: &[u8]) -> Verdict {
    let world = world();
    let (choice, signed) = bytes.split_first().unwrap_or((&0, &[]));
    let purpose = PURPOSES[usize::from(*choice) % PURPOSES.len()];
    let Ok((payload, _)) = signer_of(purpose, signed) else {
        let key = world.keys[0].signing.public();
        assert!(verify(purpose, signed, world.ids[0], &key).is_err(), "what cannot be read does not verify");
        return Verdict::Refused;
    };
    let mut verified = 0;
    for (id, keys) in world.ids.iter().zip(&world.keys) {
        let Ok(found) = verify(purpose, signed, *id, &keys.signing.public()) else { continue };
        assert_eq!(*found, payload);
        verified += 1;
        for other in PURPOSES.into_iter().filter(|other| *other != purpose) {
            assert!(verify(other, signed, *id, &keys.signing.public()).is_err(), "it passes for one purpose only");
        }
    }
    assert!(verified <= 1, "one key signs");
    Verdict::of(verified == 1)
}

/// Exported evidence.
pub(crate) fn evidence(bytes: &[u8]) -> Verdict {
    let Ok(report) = verify_evidence(bytes, None) else {
        assert!(verify_evidence(bytes, Some(world().root)).is_err(), "a root to trust makes nothing true");
        return Verdict::Refused;
    };
    let again = verify_evidence(bytes, Some(report.root)).expect("it names the root that it hangs on");
    assert_eq!((again.statement, &again.payload), (report.statement, &report.payload));
    assert!(verify_evidence(bytes, Some(Digest([0x5a; 32]))).is_err(), "and hangs on no other");
    assert!(report.attributes.check().is_ok());
    Verdict::Accepted
}

/// Evidence with the cards of the county and its signature under whatever it states.
pub(crate) fn evidence_signed(bytes: &[u8]) -> Verdict {
    let Ok(mut evidence) = decode::<Evidence>("evidence", bytes, limits::BATCH_BYTES) else { return Verdict::Refused };
    let world = world();
    if let Ok(mut statement) = decode::<Statement>("statement", &evidence.statement, 1024) {
        // Without arithmetic: its numbers are not checked yet.
        if statement.first == statement.last {
            statement.root = leaf(&evidence.attributes, &evidence.content, &evidence.commitment);
        }
        evidence.statement = statement.to_bytes().into();
    }
    evidence.statement = world.sign(2, Purpose::Statement, &evidence.statement).into();
    evidence.cards = world.chain.clone();
    self::evidence(&encode(&evidence))
}

/// A peer's certificate: it names one of the neighbours, or none.
pub(crate) fn certificate(bytes: &[u8]) -> Verdict {
    let found = peer_authority(&CertificateDer::from(bytes), world().ids);
    if let Ok(authority) = &found {
        assert!(world().ids.contains(authority));
        assert!(peer_authority(&CertificateDer::from(bytes), []).is_err(), "who is no neighbour is not named");
    }
    Verdict::of(found.is_ok())
}

/// A piece that [`cards_signed`] takes for one card.
pub(crate) fn card_piece(by: u8, card: &Card) -> Vec<u8> {
    [vec![by], piece(&encode(card))].concat()
}
