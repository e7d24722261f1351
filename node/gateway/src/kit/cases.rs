//! The cases, each with the section of the protocol that it judges. docs/kit.md tells them at length.

use super::bench::Bench;
use super::{Judged, receive, restart, send};

/// A case.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// The section of docs/protocol.md.
    pub(super) judges: &'static str,
    pub(super) wants: &'static str,
    pub(super) judge: fn(&mut Bench) -> Judged,
}

const fn case(name: &'static str, judges: &'static str, wants: &'static str, judge: fn(&mut Bench) -> Judged) -> Case {
    Case { name, judges, wants, judge }
}

/// All of them.
pub(super) const CASES: [Case; 21] = [
    case("hello", "Link frames", "a hello that asks for one is answered, in version 1", receive::hello),
    case("batch", "Batch, Receipts", "an encrypted batch is opened, applied and signed for", receive::batch),
    case("group", "Batch, Groups", "public batches to groups are applied and signed for", receive::group),
    case("applied-receipt", "Slots", "its destination signs for having applied a lane", receive::applied_receipt),
    case("duplicate", "Lanes and epochs", "a batch that comes again is signed for, not applied", receive::duplicate),
    case("gap", "Lanes and epochs", "what is missing is asked for, and then taken in order", receive::gap),
    case("altered", "Batch", "messages that are not those signed are refused; nothing moves", receive::altered),
    case("altered-group", "Batch", "the same of a public batch, which no encryption protects", receive::altered_group),
    case("forged", "Batch", "a statement that its origin has not signed is refused", receive::forged),
    case(
        "destination",
        "Lanes and epochs",
        "a batch to somebody else is neither kept nor signed for",
        receive::destination,
    ),
    case("fork", "Lanes and epochs", "a second batch for one place holds the lane", receive::fork),
    case("requires", "Attributes", "a message whose condition does not hold makes its lane wait", receive::requires),
    case("partial", "Transports", "files that are not whole are not read", receive::partial),
    case(
        "unknown-frame",
        "Link frames, Limits",
        "unknown, broken and oversize frames do no harm",
        receive::unknown_frame,
    ),
    case("send", "Batch, Lanes and epochs", "its own messages arrive, in order", send::send),
    case("custody", "Receipts", "the same bytes come again until they are signed for, then no more", send::custody),
    case(
        "forged-receipt",
        "Receipts",
        "only the neighbour's signature for what was sent ends custody",
        send::forged_receipt,
    ),
    case("kill-after-receipt", "Lanes and epochs", "what it signed for survives a kill", restart::after_receipt),
    case("kill-any-time", "Lanes and epochs", "kills at any time lose and double nothing", restart::any_time),
    case("kill-after-submit", "Lanes and epochs", "a message that it took survives a kill", restart::after_submit),
    case("epoch", "Lanes and epochs", "after a kill its lane goes on in a new epoch", restart::epoch),
];
