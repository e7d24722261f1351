//! Batches, cards and evidence through the crate's public doors: what is sealed opens, what is altered is refused.

use jincai_crypto::*;
use jincai_types::{Attributes, AuthorityId, Digest, Epoch, Lane, LanePosition, encode, hex};
use proptest::prelude::*;

struct World {
    directory: Directory,
    ministry: KeyRing,
    county: KeyRing,
    fingerprint: Digest,
}

fn id(text: &str) -> AuthorityId {
    text.parse().expect("test id")
}

fn card(authority: &str, superior: Option<&str>, keys: &KeyRing) -> Card {
    Card {
        version: 1,
        authority: id(authority),
        superior: superior.map(id),
        serial: 1,
        keys: keys.public().expect("keys"),
        not_before: 0,
        not_after: u64::MAX / 2,
    }
}

fn world() -> World {
    let mut entropy = SeededEntropy::new(7);
    let ministry = KeyRing::generate(&mut entropy).expect("keys");
    let county = KeyRing::generate(&mut entropy).expect("keys");
    let root = card("000000000", None, &ministry);
    let fingerprint = Directory::fingerprint(&root);
    let chain = CardChain::default().with(root.issue(&ministry.signing));
    let chain = chain.with(card("370502000", Some("000000000"), &county).issue(&ministry.signing));
    let mut directory = Directory::new(fingerprint);
    assert_eq!(directory.add(&chain, 1000).expect("a good chain"), (id("370502000"), true));
    assert!(!directory.add(&chain, 1000).expect("again").1);
    World { directory, ministry, county, fingerprint }
}

fn messages(count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let attributes = |n: usize| Attributes {
        id: format!("m{n}"),
        source: "370502000".into(),
        kind: "jincai.note".into(),
        ..Attributes::default()
    };
    (0..count).map(|n| (encode(&attributes(n)), format!("payload {n}").into_bytes())).collect()
}

fn sealed(world: &World, count: usize, encrypted: bool) -> Vec<u8> {
    let lane: Lane = "370502000>000000000/record".parse().expect("lane");
    let key = world.directory.card(id("000000000")).expect("card").encryption();
    let recipients = [Recipient { authority: id("000000000"), key }];
    let messages = messages(count);
    let input = SealInput {
        lane,
        epoch: Epoch { number: 5, salt: 9 },
        first: 1,
        previous: LanePosition::START,
        messages: &messages,
        recipients: if encrypted { &recipients } else { &[] },
        now: 2000,
    };
    seal(&input, &world.county, &mut SeededEntropy::new(1)).expect("seals").0
}

#[test]
fn what_is_sealed_opens_for_its_destination_only() {
    let world = world();
    for encrypted in [true, false] {
        let bytes = sealed(&world, 3, encrypted);
        let view = BatchView::parse(&bytes).expect("parses").verify(&world.directory).expect("verifies");
        let mut opener = view.opener(id("000000000"), &world.ministry).expect("content key");
        // In any order, and as often as one likes.
        for index in [2, 0, 1, 0] {
            let opened = opener.open(&view, index).expect("opens");
            assert_eq!(opened.payload, format!("payload {index}").into_bytes());
            let committed = sha256(&[opened.salt, opened.payload].concat());
            assert!(!encrypted || committed.0 == opened.commitment);
        }
        assert!(opener.open(&view, 3).is_err());
        if encrypted {
            assert!(matches!(view.opener(id("370502000"), &world.county), Err(Error::NotForUs(_))));
            assert!(matches!(view.opener(id("000000000"), &world.county), Err(Error::Decrypt)));
            assert!(!String::from_utf8_lossy(&bytes).contains("payload"));
        }
    }
}

#[test]
fn an_unknown_origin_is_not_a_bad_signature() {
    let world = world();
    let bytes = sealed(&world, 1, false);
    let stranger = Directory::new(world.fingerprint);
    let error = BatchView::parse(&bytes).expect("parses").verify(&stranger).expect_err("nobody is known");
    assert!(matches!(error, Error::UnknownKey { .. }), "{error}");
}

#[test]
fn evidence_verifies_offline_and_shows_one_message() {
    let world = world();
    let bytes = sealed(&world, 5, true);
    let reader = Some((id("000000000"), &world.ministry));
    let evidence = export_evidence(&bytes, 3, &world.directory, reader).expect("exports");
    let report = verify_evidence(&evidence, Some(world.fingerprint)).expect("verifies");
    assert_eq!(report.payload.as_deref(), Some(b"payload 3".as_slice()));
    assert_eq!(report.attributes.id, "m3");
    assert_eq!(report.root, world.fingerprint);
    assert!(verify_evidence(&evidence, Some(Digest::ZERO)).is_err());
    let blind = export_evidence(&bytes, 3, &world.directory, None).expect("exports");
    assert_eq!(verify_evidence(&blind, None).expect("verifies").payload, None);
    for at in 0..evidence.len() {
        let mut altered = evidence.clone();
        altered[at] ^= 1;
        let same = verify_evidence(&altered, Some(world.fingerprint)).is_ok_and(|r| r.payload == report.payload);
        // The unprotected header of a COSE structure carries no meaning here and is the only place that may change.
        assert!(!same || altered[at] ^ 1 == 0xa0, "byte {at} altered unseen");
    }
}

#[test]
fn chains_that_prove_nothing_are_refused() {
    let world = world();
    let rogue = KeyRing::generate(&mut SeededEntropy::new(99)).expect("keys");
    let root = card("000000000", None, &rogue);
    let mut directory = Directory::new(world.fingerprint);
    let forged = CardChain::default().with(root.issue(&rogue.signing));
    assert!(matches!(directory.add(&forged, 1000), Err(Error::Card { .. })));
    let good_root = CardChain::default().with(card("000000000", None, &world.ministry).issue(&world.ministry.signing));
    let self_made = good_root.with(card("370502000", Some("000000000"), &rogue).issue(&rogue.signing));
    assert!(directory.add(&self_made, 1000).is_err());
    assert!(!directory.tree().contains(id("370502000")), "nothing of a refused chain stays");
    let mut late = card("000000000", None, &world.ministry);
    late.not_after = 10;
    let late = CardChain::default().with(late.issue(&world.ministry.signing));
    assert!(matches!(directory.add(&late, 1_000_000), Err(Error::Card { .. })));
}

#[test]
fn keys_read_back_and_never_print() {
    let world = world();
    let again = KeyRing::from_bytes(&world.county.to_bytes()).expect("reads back");
    assert_eq!(again.public().expect("keys"), world.county.public().expect("keys"));
    assert!(!format!("{:?}", world.county).contains(&hex(&world.county.to_bytes()[4..12])));
    assert!(KeyRing::from_bytes(b"").is_err());
}

#[test]
fn certificates_name_their_authority() {
    let world = world();
    let public = world.county.public().expect("keys");
    let node =
        issue_node((id("000000000"), &world.ministry.authority), id("370502000"), &public.tls, 0, 4_000_000_000_000)
            .expect("issues");
    let candidates = [id("370522000"), id("370502000")];
    assert_eq!(peer_authority(&node, candidates).expect("named"), id("370502000"));
    assert!(peer_authority(&node, [id("370522000")]).is_err());
    assert!(issue_root(id("000000000"), &world.ministry.authority, 0, 4_000_000_000_000).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_flipped_bit_is_never_accepted_as_the_same(bit in any::<prop::sample::Index>(), encrypted in any::<bool>()) {
        let world = world();
        let mut bytes = sealed(&world, 2, encrypted);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let payloads = || -> Result<Vec<Vec<u8>>, Error> {
            let view = BatchView::parse(&bytes)?.verify(&world.directory)?;
            let mut opener = view.opener(id("000000000"), &world.ministry)?;
            (0..2).map(|i| opener.open(&view, i).map(|o| o.payload.to_vec())).collect()
        };
        // The unprotected headers are outside the signatures and mean nothing.
        if let Ok(payloads) = payloads() {
            prop_assert_eq!(payloads, vec![b"payload 0".to_vec(), b"payload 1".to_vec()]);
        }
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(BatchView::parse(&bytes).is_err());
        prop_assert!(verify_evidence(&bytes, None).is_err());
        prop_assert!(signer_of(Purpose::Card, &bytes).is_err());
    }
}
