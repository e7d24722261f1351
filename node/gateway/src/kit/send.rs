//! Cases of sending.

use super::bench::{Bench, Sealed};
use super::{Judged, wrong};
use jincai_crypto::{Purpose, sign};
use jincai_exchange::{Frame, Receipt, ReceiptList};
use jincai_types::{Digest, LanePosition, encode};

const TEXT: &str = "collected";
/// How often a batch must come before it counts as coming again.
const TIMES: usize = 3;

/// Waits until the neighbour has applied exactly these messages, in this order.
pub(super) fn arrive(bench: &mut Bench, ids: &[&str]) -> Judged {
    bench.wait(&format!("{} to arrive at its neighbour", ids.join(", ")), |bench| {
        let arrived = bench.arrived();
        if !ids.starts_with(&arrived.iter().map(String::as_str).collect::<Vec<_>>()) {
            return wrong(format!("its messages arrive as {} instead of {}", arrived.join(", "), ids.join(", ")));
        }
        Ok((arrived.len() == ids.len()).then_some(()))
    })
}

pub(super) fn send(bench: &mut Bench) -> Judged {
    let ids = ["up-1", "up-2", "up-3"];
    for id in ids {
        bench.submit(id, TEXT)?;
    }
    arrive(bench, &ids)?;
    bench.submit("up-4", TEXT)?;
    arrive(bench, &["up-1", "up-2", "up-3", "up-4"])
}

/// Waits until a batch has come some times since so many frames were said, each time with the same bytes.
fn comes_again(bench: &mut Bench, from: usize, batch: &Sealed, times: usize) -> Judged {
    let what = format!("{} of lane {} to come again, as it is not signed for", batch.end.sequence, batch.lane);
    bench.wait(&what, |bench| {
        let place = (batch.lane, batch.end.key());
        let same: Vec<&Sealed> = bench.batches_since(from).filter(|b| (b.lane, b.end.key()) == place).collect();
        if same.iter().any(|copy| copy.bytes != batch.bytes) {
            return wrong("a batch comes again with other bytes");
        }
        Ok((same.len() >= times).then_some(()))
    })
}

pub(super) fn custody(bench: &mut Bench) -> Judged {
    bench.gates.back = false;
    bench.submit("first", TEXT)?;
    let first = bench.batch_since(0)?;
    comes_again(bench, 0, &first, TIMES)?;
    bench.gates.back = true;
    arrive(bench, &["first"])?;
    let signed_for = first.clone();
    bench.wait("the neighbour to sign for it", move |bench| Ok(bench.has_signed(&signed_for).then_some(())))?;
    bench.fetched()?;
    // By the time a later batch has come again, one that is signed for would have come again too.
    bench.gates.back = false;
    let from = bench.said.len();
    bench.submit("second", TEXT)?;
    let new = |sealed: &&Sealed| sealed.end.key() > first.end.key();
    let second = bench.wait("its second batch", |bench| Ok(bench.batches_since(from).find(new).cloned()))?;
    let from = bench.said.len();
    comes_again(bench, from, &second, TIMES)?;
    if bench.batches_since(from).any(|sealed| sealed.end == first.end) {
        return wrong("it sends a batch again that its neighbour has signed for");
    }
    bench.gates.back = true;
    arrive(bench, &["first", "second"])
}

pub(super) fn forged_receipt(bench: &mut Bench) -> Judged {
    bench.gates.back = false;
    bench.submit("first", TEXT)?;
    let batch = bench.batch_since(0)?;
    let (issuer, neighbour, elsewhere) = (bench.world.ministry, bench.world.province, bench.world.elsewhere);
    let epoch = bench.core().exchange().epoch();
    let list = |position: LanePosition, neighbour| {
        let receipts = vec![Receipt { lane: batch.lane, position, refusals: 0 }];
        encode(&ReceiptList { version: 1, issuer, epoch, neighbour, receipts })
    };
    let (ours, strangers) = (&bench.world.ministry_keys.signing, &bench.world.stranger.signing);
    let other = LanePosition { digest: Digest([7; 32]), ..batch.end };
    let mut altered = sign(Purpose::Receipts, list(batch.end, neighbour), ours);
    altered.last_mut().into_iter().for_each(|byte| *byte ^= 1);
    let forged = [
        sign(Purpose::Receipts, list(batch.end, neighbour), strangers),
        sign(Purpose::Receipts, list(other, neighbour), ours),
        sign(Purpose::Receipts, list(batch.end, elsewhere), ours),
        sign(Purpose::Slot, list(batch.end, neighbour), ours),
        altered,
    ];
    for signed in forged {
        bench.put_frame(Frame::Receipts { signed: signed.into() }.to_bytes())?;
    }
    // Unsigned, it moves the window at most.
    bench.put_frame(Frame::Durable { lane: batch.lane, position: batch.end }.to_bytes())?;
    bench.barrier()?;
    let from = bench.said.len();
    comes_again(bench, from, &batch, 1)?;
    bench.gates.back = true;
    arrive(bench, &["first"])
}
