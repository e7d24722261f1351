//! What the room takes and refuses, message by message.

use crate::effect::Effect;
use crate::model::{ChunkMessage, EndMessage, PageMessage, ReceivedMessage, Want};
use crate::tree::{CHUNK_BYTES, Tree, TreeBuilder, chunk_digest, join_digests};
use crate::{CHUNK, END, FileKey, Files, OFFER, Offer, PAGE, RECEIVED, Report, Span, Submission, WANT};
use jincai_exchange::{Decision, Delivery, Parts, Place, RefusalNote, Room, record};
use jincai_types::{Attributes, AuthorityId, Destination, Digest, Epoch, Lane, Priority, encode};
use proptest::prelude::*;

struct NoParts;
impl Parts for NoParts {
    fn part(&self, _: &Digest) -> Option<Vec<u8>> {
        None
    }
}

fn id(text: &str) -> AuthorityId {
    text.parse().expect("an id")
}

const HERE: &str = "000000000";
const THERE: &str = "370000000";

/// The first message of a lane in an epoch.
fn delivery<'a>((lane, epoch): (Lane, Epoch), attributes: &'a Attributes, payload: &'a [u8]) -> Delivery<'a> {
    let (commitment, salt): (&[u8], &[u8]) = (&[], &[]);
    Delivery { lane, epoch, sequence: 1, attributes, payload, commitment, salt, record: 77, index: 3 }
}

fn decide(files: &mut Files, from: &str, kind: &str, payload: &[u8]) -> Decision {
    decide_in(files, (from, 0), kind, payload)
}

/// The decision on a message about the transfer of these tests that somebody said in an epoch of his.
fn decide_in(files: &mut Files, (from, number): (&str, u64), kind: &str, payload: &[u8]) -> Decision {
    let lane = Lane { origin: id(from), destination: Destination::Authority(files.me), class: Priority::Bulk };
    let (subject, source) = ("1".into(), from.into());
    let attributes = Attributes { id: "m".into(), source, kind: kind.into(), subject, ..Attributes::default() };
    files.decide(1, &delivery((lane, Epoch { number, salt: 0 }), &attributes, payload), &NoParts)
}

fn apply(files: &mut Files, effect: &[u8]) {
    files.apply(&Place { number: 1, offset: 0, cause: None }, effect).expect("applies");
}

/// The effect of such a message, and the types of what the room answers at once.
fn say(files: &mut Files, from: (&str, u64), kind: &str, payload: &[u8]) -> (Effect, Vec<String>) {
    match decide_in(files, from, kind, payload) {
        Decision::Apply { effect, messages } => {
            apply(files, &effect);
            let effect = jincai_types::decode("effect", &effect, 1 << 20).expect("an effect");
            (effect, messages.into_iter().map(|message| message.attributes.kind).collect())
        }
        other => panic!("{kind}: {other:?}"),
    }
}

/// The effect of a message that is taken.
fn take(files: &mut Files, from: &str, kind: &str, payload: &[u8]) -> Effect {
    say(files, (from, 0), kind, payload).0
}

fn code(decision: &Decision) -> &str {
    match decision {
        Decision::Refuse(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn file() -> (Vec<u8>, Tree, Vec<Digest>) {
    let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 9).map(|n| u8::try_from(n % 253).expect("small")).collect();
    let mut builder = TreeBuilder::default();
    builder.update(&bytes, &mut |_| {}).expect("short");
    let tree = builder.finish(&mut |_| {});
    let digests = bytes.chunks(usize::try_from(CHUNK_BYTES).expect("small")).map(chunk_digest).collect();
    (bytes, tree, digests)
}

fn offer(tree: &Tree) -> Offer {
    let Tree { size, root, pages } = tree.clone();
    Offer { id: "1".into(), name: "a.csv".into(), media: "text/csv".into(), size, root, pages }
}

fn key() -> FileKey {
    FileKey { origin: id(THERE), id: "1".into() }
}

/// A room that has asked for everything of a file.
fn asking() -> (Files, Vec<u8>, Vec<Digest>) {
    let (bytes, tree, digests) = file();
    let mut files = Files::new(id(HERE));
    take(&mut files, THERE, OFFER, &encode(&offer(&tree)));
    report(&mut files, Report::Begun { key: key() });
    want(&mut files);
    let page = PageMessage { id: "1".into(), page: 0, digests: join_digests(&digests).into() };
    assert!(matches!(take(&mut files, THERE, PAGE, &encode(&page)), Effect::Page(..)));
    report(&mut files, Report::Checked { key: key(), page: 0, upto: 3, known: vec![] });
    want(&mut files);
    (files, bytes, digests)
}

fn report(files: &mut Files, report: Report) {
    let staged = files.report(1, report).expect("in time");
    apply(files, &staged.effect);
}

fn want(files: &mut Files) {
    for (_, staged) in files.next_wants(1) {
        apply(files, &staged.effect);
    }
}

fn chunk(at: u64, bytes: &[u8]) -> Vec<u8> {
    encode(&ChunkMessage { id: "1".into(), chunk: at, bytes: bytes.into() })
}

#[test]
fn a_chunk_that_is_not_what_the_root_promises_is_refused() {
    let (mut files, bytes, _) = asking();
    let whole = usize::try_from(CHUNK_BYTES).expect("small");
    let mut altered = bytes[..whole].to_vec();
    altered[17] ^= 1;
    for wrong in [chunk(0, &altered), chunk(0, &bytes[..whole - 1]), chunk(1, &bytes[..whole]), chunk(2, b"")] {
        assert_eq!(code(&decide(&mut files, THERE, CHUNK, &wrong)), "JC-2003");
    }
    let good = chunk(0, &bytes[..whole]);
    assert_eq!(take(&mut files, THERE, CHUNK, &good), Effect::Chunk(key(), 0, 77, 3));
    assert_eq!(take(&mut files, THERE, CHUNK, &good), Effect::Nothing, "it has come already");
    assert_eq!(take(&mut files, THERE, CHUNK, &chunk(9, b"x")), Effect::Nothing, "nobody asked for it");
    assert_eq!(take(&mut files, "110000000", CHUNK, &good), Effect::Nothing, "somebody else's");
    let mut live = Vec::new();
    files.live(&mut |record| live.push(record));
    assert_eq!(live, [77], "its bytes stay in the journal");
    report(&mut files, Report::Stored { key: key(), chunks: vec![0] });
    files.live(&mut |record| panic!("record {record} is stored"));
}

#[test]
fn a_page_that_is_not_what_the_offer_promises_is_refused() {
    let (bytes, tree, mut digests) = file();
    drop(bytes);
    let mut files = Files::new(id(HERE));
    take(&mut files, THERE, OFFER, &encode(&offer(&tree)));
    let page =
        |digests: &[Digest]| encode(&PageMessage { id: "1".into(), page: 0, digests: join_digests(digests).into() });
    assert_eq!(take(&mut files, THERE, PAGE, &page(&digests)), Effect::Nothing, "nobody asked for it");
    report(&mut files, Report::Begun { key: key() });
    want(&mut files);
    assert_eq!(code(&decide(&mut files, THERE, PAGE, &page(&digests[..2]))), "JC-2003");
    digests[1].0[0] ^= 1;
    assert_eq!(code(&decide(&mut files, THERE, PAGE, &page(&digests))), "JC-2003");
}

#[test]
fn an_offer_under_a_known_id_is_the_same_or_refused() {
    let (_, tree, _) = file();
    let mut files = Files::new(id(HERE));
    take(&mut files, THERE, OFFER, &encode(&offer(&tree)));
    assert_eq!(take(&mut files, THERE, OFFER, &encode(&offer(&tree))), Effect::Nothing);
    let other = Offer { name: "b.csv".into(), ..offer(&tree) };
    assert_eq!(code(&decide(&mut files, THERE, OFFER, &encode(&other))), "JC-2004");
    assert!(
        matches!(take(&mut files, "110000000", OFFER, &encode(&other)), Effect::Offered(..)),
        "ids are an origin's own"
    );
}

#[test]
fn only_the_destination_may_want_and_only_what_there_is() {
    let (_, tree, _) = file();
    let mut files = Files::new(id(HERE));
    let submission =
        || Submission { to: id(THERE), id: "1".into(), name: "a.csv".into(), media: String::new(), tree: tree.clone() };
    let staged = files.submit(1, submission()).expect("good").expect("new");
    assert_eq!(staged.messages.len(), 1);
    apply(&mut files, &staged.effect);
    assert!(files.submit(2, submission()).expect("good").is_none(), "once under one id");
    let other = Submission { to: id("110000000"), ..submission() };
    assert_eq!(files.submit(2, other).expect_err("another one").code(), "JC-2004");
    let want = |to| encode(&Want { id: "1".into(), anew: true, pages: vec![0], chunks: vec![Span { from: 0, to }] });
    assert_eq!(code(&decide(&mut files, "110000000", WANT, &want(3))), "JC-2008");
    assert_eq!(code(&decide(&mut files, THERE, WANT, &want(4))), "JC-2002");
    assert!(matches!(take(&mut files, THERE, WANT, &want(3)), Effect::Wanted(..)));
    let end =
        encode(&EndMessage { key: FileKey { origin: id(HERE), id: "1".into() }, code: "X".into(), reason: "y".into() });
    assert_eq!(take(&mut files, "110000000", END, &end), Effect::Nothing, "it is not theirs to end");
    assert!(matches!(take(&mut files, THERE, END, &end), Effect::SendingEnded(..)));
    assert_eq!(code(&decide(&mut files, THERE, WANT, &want(3))), "JC-2008");
}

#[test]
fn a_room_comes_back_from_a_snapshot_as_it_was() {
    let (mut files, bytes, _) = asking();
    take(&mut files, THERE, CHUNK, &chunk(0, &bytes[..usize::try_from(CHUNK_BYTES).expect("small")]));
    let mut again = Files::new(id(HERE));
    again.load(&files.save()).expect("loads");
    assert_eq!(again.save(), files.save());
    assert_eq!(again.receiving_jobs(crate::Mood { eager: true, retry: false }).len(), 1);
}

proptest! {
    #[test]
    fn no_bytes_from_a_neighbour_stop_the_room(kind in 0usize..6, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut files, ..) = asking();
        let kinds = [OFFER, WANT, PAGE, CHUNK, RECEIVED, END];
        match decide(&mut files, THERE, kinds[kind], &bytes) {
            Decision::Apply { effect, .. } => apply(&mut files, &effect),
            Decision::Refuse(refusal) => prop_assert!(refusal.code.starts_with("JC-")),
            Decision::Wait(_) => prop_assert!(false, "a file waits for nothing"),
        }
    }
}

/// Each of these once left one end waiting for ever after the other had been set back.
#[test]
fn whoever_was_set_back_hears_again_that_a_transfer_is_over() {
    let (mut files, bytes, _) = asking();
    let first = chunk(0, &bytes[..usize::try_from(CHUNK_BYTES).expect("small")]);
    report(&mut files, Report::Completed { key: key() });
    assert_eq!(say(&mut files, (THERE, 1), CHUNK, &first), (Effect::Nothing, vec![RECEIVED.into()]));
    let (_, tree, _) = file();
    let offered = encode(&offer(&tree));
    assert_eq!(say(&mut files, (THERE, 1), OFFER, &offered), (Effect::Nothing, vec![RECEIVED.into()]));
    // This node is set back, and its store may be gone: it looks for what it has received.
    for (_, staged) in files.after_restore(1) {
        apply(&mut files, &staged.effect);
    }
    let begins = files.receiving_jobs(crate::Mood::default()).into_iter();
    assert!(begins.into_iter().any(|job| matches!(job, crate::Job::Begin { .. })));
    assert_eq!(say(&mut files, (THERE, 1), OFFER, &offered), (Effect::Nothing, vec![]), "it is not over");
    let staged = files.give_up(1, &key()).expect("is given up");
    apply(&mut files, &staged.effect);
    assert_eq!(say(&mut files, (THERE, 1), OFFER, &offered), (Effect::Nothing, vec![END.into()]));
}

#[test]
fn what_a_destination_said_before_it_was_set_back_ends_nothing() {
    let (_, tree, _) = file();
    let mut files = Files::new(id(HERE));
    let submission =
        Submission { to: id(THERE), id: "1".into(), name: "a".into(), media: String::new(), tree: tree.clone() };
    let staged = files.submit(1, submission).expect("is taken").expect("is new");
    apply(&mut files, &staged.effect);
    let again = files.after_restore(2);
    assert!(again.iter().any(|(_, staged)| staged.messages.iter().any(|message| message.attributes.kind == OFFER)));
    let want = encode(&Want { id: "1".into(), anew: true, pages: vec![0], chunks: vec![] });
    let whole = encode(&ReceivedMessage { id: "1".into(), root: tree.root });
    let key = FileKey { origin: id(HERE), id: "1".into() };
    let end = encode(&EndMessage { key: key.clone(), code: "JC-2009".into(), reason: "no".into() });
    say(&mut files, (THERE, 2), WANT, &want);
    assert_eq!(say(&mut files, (THERE, 1), RECEIVED, &whole).0, Effect::Nothing);
    assert_eq!(say(&mut files, (THERE, 1), END, &end).0, Effect::Nothing);
    assert_eq!(say(&mut files, (THERE, 2), RECEIVED, &whole).0, Effect::Received(key, 1));
}

/// It had refused a want before it was given its own offer back, and waited for another one for ever.
#[test]
fn an_origin_that_refuses_a_want_hears_that_the_transfer_is_over() {
    let (mut files, ..) = asking();
    let lane = Lane { origin: id(HERE), destination: Destination::Authority(id(THERE)), class: Priority::Control };
    let cause = record::Cause { lane, epoch: Epoch::default(), sequence: 1 };
    let (kind, code) = (WANT.into(), "JC-2008".into());
    let note = RefusalNote { cause, id: "want".into(), kind, subject: "1".into(), code, reason: "gone".into() };
    let (effect, messages) = files.refused(1, id(THERE), &note).expect("it is about a transfer");
    apply(&mut files, &effect);
    assert!(files.coming(&key()).is_some_and(|coming| coming.is_over()));
    assert_eq!(messages.iter().map(|message| &message.attributes.kind[..]).collect::<Vec<_>>(), [END]);
}

/// Its destination had said long before that the transfer is over, and was not asked again.
#[test]
fn an_offer_that_is_given_back_late_is_made_again() {
    let (_, tree, _) = file();
    let mut files = Files::new(id(HERE));
    let lane = Lane { origin: id(HERE), destination: Destination::Authority(id(THERE)), class: Priority::Record };
    let (source, kind, payload) = (HERE.into(), OFFER.into(), encode(&offer(&tree)));
    let attributes = Attributes { id: "m".into(), source, kind, ..Attributes::default() };
    let given_back = delivery((lane, Epoch::default()), &attributes, &payload);
    let effect = files.retake(&given_back, &NoParts).expect("it was forgotten");
    apply(&mut files, &effect);
    let mut back = Files::new(id(HERE));
    back.load(&files.save()).expect("loads");
    let [(_, staged)] = &back.retaken(2)[..] else { panic!("one is offered again") };
    assert_eq!(staged.messages[0].attributes.kind, OFFER);
    assert!(back.has_retaken());
    apply(&mut back, &staged.effect);
    assert!(back.retaken(3).is_empty() && !back.has_retaken());
}
