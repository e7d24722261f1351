//! Seeds of what is signed, sealed and proven.

use super::text::{attributes, lane, position};
use super::{Seed, accepted, refused};
use crate::crypto::{Draft, card_piece};
use crate::world::{NOW, card, keys_of, world};
use jincai_crypto::{
    Evidence, Purpose, Recipient, SealInput, SeededEntropy, Statement, export_evidence, issue_node, issue_root, seal,
};
use jincai_types::{Digest, Epoch, Lane, LanePosition, encode};

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = vec![
        accepted("statement", "first", statement(1, 1, LanePosition::START).to_bytes()),
        accepted("statement", "next", statement(10, 12, position(9)).to_bytes()),
        refused("statement", "gap", statement(11, 12, position(9)).to_bytes()),
        refused("statement", "last-number", statement(u64::MAX, u64::MAX, position(u64::MAX)).to_bytes()),
        refused("statement", "no-successor", statement(u64::MAX, u64::MAX, position(u64::MAX - 1)).to_bytes()),
        accepted("key_ring", "keys", keys_of(4).to_bytes().to_vec()),
    ];
    seeds.extend(batches());
    seeds.extend(cards());
    seeds.extend(signatures());
    seeds.extend(evidence());
    seeds.extend(certificates());
    seeds
}

/// A statement of the county.
pub(super) fn statement(first: u64, last: u64, previous: LanePosition) -> Statement {
    let epoch = Epoch { number: 1, salt: 2 };
    let root = Digest([5; 32]);
    Statement {
        version: 1,
        suite: 1,
        lane: lane(),
        epoch,
        first,
        last,
        previous,
        root,
        encrypted: false,
        sealed_at: NOW,
    }
}

/// A batch of the county on a lane, encrypted if it goes to the ministry alone.
pub(super) fn sealed(lane: Lane, messages: &[(Vec<u8>, Vec<u8>)], entropy: u64) -> Vec<u8> {
    let world = world();
    let card = world.directory.card(world.ids[0]).expect("the ministry's card");
    let recipients = [Recipient { authority: world.ids[0], key: card.encryption() }];
    let input = SealInput {
        lane,
        epoch: Epoch { number: 1, salt: 2 },
        first: 1,
        previous: LanePosition::START,
        messages,
        recipients: if lane == self::lane() { &recipients } else { &[] },
        now: NOW,
    };
    seal(&input, &world.keys[2], &mut SeededEntropy::new(entropy)).expect("it can be sealed").0
}

/// To every authority above the county.
pub(super) fn public_lane() -> Lane {
    "370502000>superiors:370502000/record".parse().expect("a lane")
}

/// What a batch says, to be signed where it is read.
pub(super) fn draft(statement: &Statement, messages: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let items = messages.iter().map(|(a, content)| (a.clone().into(), content.clone().into(), Vec::new().into()));
    let draft: Draft = (statement.to_bytes().into(), Vec::new().into(), items.collect());
    encode(&draft)
}

fn messages() -> Vec<(Vec<u8>, Vec<u8>)> {
    vec![(encode(&attributes()), b"one".to_vec()), (encode(&attributes()), Vec::new())]
}

fn batches() -> Vec<Seed> {
    let messages = messages();
    let two = Statement { lane: public_lane(), ..statement(1, 2, LanePosition::START) };
    let wide = Statement { last: 3, ..two.clone() };
    let nearly = LanePosition { epoch: Epoch::default(), ..position(u64::MAX) };
    let after_all = Statement { previous: nearly, ..two.clone() };
    vec![
        accepted("batch", "encrypted", sealed(lane(), &messages, 5)),
        accepted("batch", "public", sealed(public_lane(), &messages, 6)),
        accepted("batch_signed", "two", draft(&two, &messages)),
        refused("batch_signed", "another-count", draft(&wide, &messages)),
        refused("batch_signed", "after-the-last-number", draft(&after_all, &messages)),
    ]
}

fn cards() -> Vec<Seed> {
    let world = world();
    let of = |at: usize| card(&world.ids, &world.keys, at);
    let pieces = |cards: &[(u8, usize)]| cards.iter().flat_map(|(by, at)| card_piece(*by, &of(*at))).collect();
    let late = jincai_crypto::Card { not_before: u64::MAX, ..of(0) };
    vec![
        accepted("cards", "county", encode(&world.chain)),
        refused("cards", "no-root", encode(&jincai_crypto::CardChain(world.chain.0[1..].to_vec()))),
        accepted("cards_signed", "county", pieces(&[(0, 0), (0, 1), (1, 2)])),
        refused("cards_signed", "another-signer", pieces(&[(0, 0), (1, 1)])),
        refused("cards_signed", "never-valid", card_piece(0, &late)),
    ]
}

fn signatures() -> Vec<Seed> {
    let world = world();
    let purposes = [("statement", Purpose::Statement), ("card", Purpose::Card), ("slot", Purpose::Slot)];
    let signed = purposes.into_iter().zip([0u8, 2, 4]).map(|((name, purpose), choice)| {
        let signed = world.sign(usize::from(choice), purpose, b"payload");
        accepted("signature", name, [vec![choice], signed].concat())
    });
    let other = [vec![1], world.sign(0, Purpose::Card, b"payload")].concat();
    signed.chain([refused("signature", "another-purpose", other)]).collect()
}

fn evidence() -> Vec<Seed> {
    let world = world();
    let exported = |lane, reader| {
        let batch = sealed(lane, &messages()[..1], 7);
        export_evidence(&batch, 0, &world.directory, reader).expect("the batch verifies")
    };
    let reader = Some((world.ids[0], &world.keys[0]));
    let raw = |sealed_at| {
        let statement = Statement { sealed_at, ..statement(1, 1, LanePosition::START) };
        let attributes = encode(&attributes());
        encode(&Evidence {
            version: 1,
            cards: jincai_crypto::CardChain::default(),
            statement: statement.to_bytes().into(),
            index: 0,
            attributes: attributes.into(),
            content: b"content".to_vec().into(),
            commitment: Vec::new().into(),
            proof: Vec::new(),
            key: None,
        })
    };
    vec![
        accepted("evidence", "public", exported(public_lane(), None)),
        accepted("evidence", "unread", exported(lane(), None)),
        accepted("evidence", "read", exported(lane(), reader)),
        accepted("evidence_signed", "one", raw(NOW)),
        refused("evidence_signed", "end-of-time", raw(u64::MAX)),
    ]
}

fn certificates() -> Vec<Seed> {
    let world = world();
    let (from, until) = (NOW, NOW + 1000);
    let [ministry, province, _] = &world.keys;
    let tls = province.public().expect("good keys").tls;
    let node = issue_node((world.ids[0], &ministry.authority), world.ids[1], &tls, from, until);
    let root = issue_root(world.ids[0], &ministry.authority, from, until);
    let der = |made: Result<rustls_pki_types::CertificateDer<'static>, _>| match made {
        Ok(certificate) => certificate.to_vec(),
        Err::<_, jincai_crypto::Error>(error) => panic!("a certificate: {error}"),
    };
    vec![accepted("certificate", "node", der(node)), refused("certificate", "root", der(root))]
}
