//! Cases of kills: the process group gets SIGKILL, and the command is started again in the same directory.

use super::bench::{Bench, Said};
use super::send::arrive;
use super::{Judged, wrong};
use jincai_crypto::BatchView;

const TEXT: &str = "survives";
/// Kills of one case.
const KILLS: usize = 4;

fn restart(bench: &mut Bench) -> Judged {
    bench.sut.kill();
    Ok(bench.sut.start()?)
}

pub(super) fn after_receipt(bench: &mut Bench) -> Judged {
    let first = bench.record(&[("one", TEXT), ("two", TEXT)])?;
    bench.receipt(&first)?;
    bench.sut.kill();
    // The neighbour keeps what was signed for no longer, and no carrier does: what follows must do.
    bench.sut.lose_incoming()?;
    bench.sut.start()?;
    let from = bench.said.len();
    let second = bench.record(&[("three", TEXT)])?;
    let lane = first.lane;
    bench.wait("a receipt for what follows", |bench| {
        let asks = |said: &Said| matches!(said, Said::Gap(of, _) if *of == lane);
        if bench.said.iter().skip(from).any(asks) {
            return wrong("it asks again for what it has signed for");
        }
        Ok(bench.signed_since(from, &second).then_some(()))
    })?;
    bench.barrier()?;
    let from = bench.said.len();
    bench.put_batch(&first)?;
    bench.receipt_since(from, &first)?;
    bench.all_applied()
}

pub(super) fn any_time(bench: &mut Bench) -> Judged {
    for number in 0..KILLS {
        let id = format!("message-{number}");
        let sealed = bench.record(&[(&id, TEXT)])?;
        match number % 2 {
            // Once the file is gone the message lies with nobody but the neighbour, or with both.
            0 => bench.fetched()?,
            _ => bench.applied(&id)?,
        }
        restart(bench)?;
        // A carrier may bring a copy late.
        bench.put_batch(&sealed)?;
        bench.receipt(&sealed)?;
    }
    bench.barrier()?;
    bench.all_applied()
}

pub(super) fn after_submit(bench: &mut Bench) -> Judged {
    let ids = ["up-1", "up-2", "up-3"];
    for id in ids {
        bench.submit(id, TEXT)?;
        restart(bench)?;
    }
    arrive(bench, &ids)
}

pub(super) fn epoch(bench: &mut Bench) -> Judged {
    bench.submit("up-1", TEXT)?;
    arrive(bench, &["up-1"])?;
    let before = bench.batch_since(0)?;
    restart(bench)?;
    let from = bench.said.len();
    bench.submit("up-2", TEXT)?;
    arrive(bench, &["up-1", "up-2"])?;
    let after = bench.batches_since(from).find(|sealed| sealed.end.key() > before.end.key()).cloned();
    match after {
        Some(after) if after.end.epoch.number <= before.end.epoch.number => {
            wrong("it goes on in the epoch of before the kill")
        }
        Some(after) if BatchView::parse(&after.bytes)?.statement.previous != before.end => {
            wrong("its new epoch does not name the end of the one before")
        }
        Some(_) => Ok(()),
        None => wrong("what arrived is not what it was seen to send"),
    }
}
