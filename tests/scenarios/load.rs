//! Load on a node, and the book of what it acknowledged: whatever happens to the node, exactly that must be there after.

use crate::node::{Node, wait_for};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Clients that send at once.
const CLIENTS: usize = 4;
/// The inbox shows so many messages; a book must stay below that.
pub(crate) const SHOWN: u64 = 1_000;

/// Which messages were sent, and which of them the node answered for.
#[derive(Default)]
pub(crate) struct Book {
    next: AtomicU64,
    acknowledged: Mutex<BTreeSet<String>>,
    closed: AtomicBool,
}

impl Book {
    /// How many were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("no client panicked").len()
    }

    /// Sends messages to the node itself from several clients, until the node does not answer any more, or `until` says
    /// stop. `meanwhile` runs beside them.
    pub(crate) fn fill(&self, node: &Node, until: impl Fn(&Self) -> bool + Sync, meanwhile: impl FnOnce()) {
        self.closed.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !self.closed.load(Ordering::Relaxed) && !until(self) {
                        if !self.send_one(node) {
                            break;
                        }
                    }
                });
            }
            meanwhile();
        });
    }

    /// As [`Self::fill`], with ids from a number on, so that two books can be told apart.
    pub(crate) fn fill_from(
        &self,
        first: u64,
        node: &Node,
        until: impl Fn(&Self) -> bool + Sync,
        meanwhile: impl FnOnce(),
    ) {
        self.next.store(first, Ordering::Relaxed);
        self.fill(node, until, meanwhile);
    }

    /// No more is sent.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Sends one message; `false` if the node gave no answer or refused.
    pub(crate) fn send_one(&self, node: &Node) -> bool {
        let id = format!("m{:06}", self.next.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "to": "000000000", "id": id, "text": id.repeat(20) }).to_string();
        let taken = node.try_post("/api/v1/messages", &body).is_some_and(|(status, _)| status == 200);
        if taken {
            self.acknowledged.lock().expect("no client panicked").insert(id);
        }
        taken
    }

    /// Waits until so many were acknowledged.
    pub(crate) fn wait_for(&self, count: usize) {
        wait_for("acknowledgements", || (self.acknowledged() >= count).then_some(()));
    }

    /// Everything acknowledged is there, nothing twice, and nothing that was never sent.
    pub(crate) fn check(&self, node: &Node, when: &str) {
        self.check_among(node, self.next.load(Ordering::Relaxed), when);
    }

    /// As [`Self::check`], with messages of other books among them, whose numbers lie below `sent`.
    pub(crate) fn check_among(&self, node: &Node, sent: u64, when: &str) {
        assert!(sent <= SHOWN, "{sent} messages are more than the inbox shows");
        let value = node.get("/api/v1/messages");
        let ids: Vec<&str> =
            value["newest"].as_array().expect("a list").iter().filter_map(|n| n["id"].as_str()).collect();
        let found: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(found.len(), ids.len(), "{when}: a message was applied twice");
        let acknowledged = self.acknowledged.lock().expect("no client panicked");
        let lost: Vec<&String> = acknowledged.iter().filter(|id| !found.contains(id.as_str())).collect();
        assert!(lost.is_empty(), "{when}: acknowledged and lost: {lost:?}");
        let strange: Vec<&&str> = found.iter().filter(|id| id[1..].parse().is_ok_and(|n: u64| n >= sent)).collect();
        assert!(strange.is_empty(), "{when}: nobody sent {strange:?}");
    }
}
