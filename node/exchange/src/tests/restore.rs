//! A node that was set back, and what its neighbour does for it.

use super::{COUNTY, Node, authority};
use crate::held::Held;
use crate::{Frame, LinkKind, Opening};
use jincai_types::{AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Priority};

/// A batch of the county's, from before it was set back.
fn own(sequence: u64) -> (Lane, Held) {
    let destination = Destination::Authority(AuthorityId::MINISTRY);
    let lane = Lane { origin: authority(COUNTY), destination, class: Priority::Record };
    let epoch = Epoch { number: 5, salt: 1 };
    let end = |sequence| LanePosition { epoch, sequence, digest: Digest([u8::try_from(sequence).expect("small"); 32]) };
    let previous = end(sequence - 1);
    (
        lane,
        Held {
            record: sequence,
            previous,
            end: end(sequence),
            bytes: 100,
            after: previous,
            sealed_at: 0,
            chunks: false,
        },
    )
}

/// The lanes of which the node says the ends to the county.
fn ends(node: &mut Node) -> Vec<(Lane, LanePosition)> {
    let said = node.says(authority(COUNTY), |exchange, ctx| exchange.say_ends(authority(COUNTY), ctx));
    said.iter()
        .find_map(|frame| match Frame::from_bytes(frame) {
            Ok(Frame::Ends { lanes, .. }) => Some(lanes),
            _ => None,
        })
        .expect("it says ends")
}

/// What it was given back got lost, custody of it ended meanwhile, and nobody held it any more when it asked again: it then
/// made a release of a number that others held already.
#[test]
fn what_a_restored_neighbour_may_ask_back_is_kept_until_it_has_signed_for_it() {
    let mut node = Node::new(Opening::Unclean);
    let county = authority(COUNTY);
    let [(lane, first), (_, second)] = [own(1), own(2)];
    let above = node.exchange.links.get_mut(&AuthorityId::MINISTRY).expect("a neighbour");
    above.hold(lane, first, 0);
    above.hold(lane, second, 0);
    assert_eq!(ends(&mut node), [(lane, second.end)]);
    let above = node.exchange.links.get_mut(&AuthorityId::MINISTRY).expect("a neighbour");
    above.reset(Some(LinkKind::Session), 0);
    assert_eq!(above.clear(&lane, second.end, 0), Ok(true));
    assert_eq!(ends(&mut node), [(lane, second.end)], "it is still there to be asked for");
    let below = node.exchange.links.get_mut(&county).expect("a neighbour");
    let other = LanePosition { digest: Digest([9; 32]), ..second.end };
    for signed in [other, second.end] {
        assert_eq!(below.clear(&lane, signed, 0), Ok(false), "it ends no custody");
    }
    assert_eq!(below.kept().map(|(_, held)| *held).collect::<Vec<_>>(), [first], "each by itself");
    let epoch = Epoch { number: super::NOW, salt: 3 };
    let hello =
        |restored| Frame::Hello { low: 1, high: 1, authority: county, epoch, heard: true, known: epoch, restored };
    node.hear(county, &hello(true)).expect("is taken");
    assert_eq!(ends(&mut node), [(lane, first.end)]);
    node.hear(county, &hello(false)).expect("is taken");
    assert_eq!(ends(&mut node), []);
}

#[test]
fn a_restored_node_that_knows_no_neighbour_yet_waits_for_them() {
    let mut node = Node::new(Opening::Restored);
    node.exchange.links.clear();
    node.ticks(AuthorityId::MINISTRY);
    assert!(node.exchange.is_catching_up(), "they may be about to come");
    let at = node.exchange.next_catch_up(node.now).expect("it looks again");
    assert!(at > node.now);
    node.now = at;
    node.ticks(AuthorityId::MINISTRY);
    assert!(!node.exchange.is_catching_up(), "there are none");
}
