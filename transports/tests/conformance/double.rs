//! Doubles that use every freedom of the contract: a mailbox that loses, doubles, reorders, cuts and fails, and a session
//! that breaks off within frames. They prove the suite as much as the drivers.

use crate::suite::{DEADLINE, End, Promises, Wire, conforms, frame};
use bytes::Bytes;
use jincai_crypto::{Entropy, SeededEntropy};
use jincai_transports::{Error, Events, Link, Mailbox, Session, Shape, mailbox_link, session_link};
use jincai_types::{AuthorityId, Priority};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn peers() -> [AuthorityId; 2] {
    ["370000000", "370502000"].map(|text| text.parse().expect("id"))
}

/// Dice that both ends share.
#[derive(Clone)]
struct Dice(Arc<Mutex<SeededEntropy>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SeededEntropy::new(seed))))
    }

    /// 0 … sides − 1.
    fn roll(&self, sides: u64) -> u64 {
        self.0.lock().expect("no panic while rolling").number().expect("a seed never runs dry") % sides
    }
}

/// One direction: entries by name.
type Entries = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct BadMailbox {
    dice: Dice,
    outgoing: Entries,
    incoming: Entries,
}

impl BadMailbox {
    fn fails(&self) -> Result<(), Error> {
        if self.dice.roll(1000) == 0 {
            return Err(Error::Lost { reason: "the dice say so".into() });
        }
        Ok(())
    }
}

impl Mailbox for BadMailbox {
    async fn put(&self, class: Priority, entry: Bytes) -> Result<(), Error> {
        self.fails()?;
        let copies = [0, 1, 1, 1, 2][self.dice.roll(5) as usize];
        for _ in 0..copies {
            let name = format!("{}-{}", class.index(), self.dice.roll(u64::MAX));
            self.outgoing.lock().expect("whole").insert(name, entry.to_vec());
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>, Error> {
        self.fails()?;
        let mut names: Vec<String> = self.incoming.lock().expect("whole").keys().cloned().collect();
        for i in (1..names.len()).rev() {
            names.swap(i, self.dice.roll(i as u64 + 1) as usize);
        }
        // Some that are gone, and some twice.
        names.extend(names.first().cloned());
        names.push("gone".into());
        Ok(names)
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.fails()?;
        let entry = self.incoming.lock().expect("whole").get(name).cloned();
        Ok(entry.map(|mut entry| {
            if self.dice.roll(10) == 0 {
                entry.truncate(self.dice.roll(entry.len() as u64) as usize);
            }
            entry
        }))
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        self.fails()?;
        // Now and then it stays, and comes again.
        if self.dice.roll(10) != 0 {
            self.incoming.lock().expect("whole").remove(name);
        }
        Ok(())
    }

    async fn set_aside(&self, name: &str) -> Result<(), Error> {
        self.incoming.lock().expect("whole").remove(name);
        Ok(())
    }
}

struct BadMailboxes(u64);

struct Directions {
    dice: Dice,
    up: Entries,
    down: Entries,
}

fn bad_mailbox(peer: AuthorityId, dice: &Dice, outgoing: &Entries, incoming: &Entries, events: Events) -> Link {
    let (outgoing, incoming) = (Arc::clone(outgoing), Arc::clone(incoming));
    let mailbox = BadMailbox { dice: dice.clone(), outgoing, incoming };
    mailbox_link(peer, mailbox, Duration::from_millis(10), events)
}

impl Wire for BadMailboxes {
    type Host = Arc<Directions>;

    fn promises(&self) -> Promises {
        Promises { shape: Shape::Mailbox, ordered: false, exact: false, most_held: usize::MAX }
    }

    async fn pair(&self) -> (End<Self::Host>, End<Self::Host>) {
        let host = Directions { dice: Dice::new(self.0), up: Entries::default(), down: Entries::default() };
        let host = Arc::new(host);
        let (sender, events) = mpsc::channel(8);
        let near = bad_mailbox(peers()[0], &host.dice, &host.up, &host.down, sender);
        let near = End::new(near, events, Arc::clone(&host));
        (near, far_mailbox(host))
    }

    async fn restart(&self, far: End<Self::Host>) -> End<Self::Host> {
        let End { link, host, .. } = far;
        drop(link);
        far_mailbox(host)
    }
}

fn far_mailbox(host: Arc<Directions>) -> End<Arc<Directions>> {
    let (sender, events) = mpsc::channel(8);
    End::new(bad_mailbox(peers()[1], &host.dice, &host.down, &host.up, sender), events, host)
}

/// A connection in memory that is cut after some bytes, wherever that is.
struct BadSession {
    streams: mpsc::Sender<DuplexStream>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>,
    cut: Arc<watch::Sender<Option<String>>>,
    budget: Arc<Mutex<usize>>,
}

impl BadSession {
    fn pair(dice: &Dice) -> (Self, Self) {
        let cut = Arc::new(watch::Sender::new(None));
        // Enough for a frame of the greatest length, little enough for many cuts.
        let budget = Arc::new(Mutex::new((1_200 << 10) + dice.roll(3 << 20) as usize));
        let ((to_far, at_far), (to_near, at_near)) = (mpsc::channel(4), mpsc::channel(4));
        let end = |streams, accepted| Self {
            streams,
            accepted: tokio::sync::Mutex::new(accepted),
            cut: Arc::clone(&cut),
            budget: Arc::clone(&budget),
        };
        (end(to_far, at_near), end(to_near, at_far))
    }
}

/// Carries bytes until the budget of the connection is used up, then cuts it.
async fn carry(
    mut from: DuplexStream,
    mut to: DuplexStream,
    cut: Arc<watch::Sender<Option<String>>>,
    budget: Arc<Mutex<usize>>,
) {
    let mut chunk = vec![0; 10_000];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let some = {
            let mut budget = budget.lock().expect("whole");
            let some = read.min(*budget);
            *budget -= some;
            some
        };
        if to.write_all(&chunk[..some]).await.is_err() {
            return;
        }
        if some < read {
            cut.send_replace(Some("the dice say so".into()));
            return;
        }
    }
}

impl Session for BadSession {
    type Writer = DuplexStream;
    type Reader = DuplexStream;

    async fn open(&self, _class: Priority) -> Result<DuplexStream, Error> {
        let ((ours, from), (to, theirs)) = (duplex(8192), duplex(8192));
        tokio::spawn(carry(from, to, Arc::clone(&self.cut), Arc::clone(&self.budget)));
        let lost = |_| Error::Lost { reason: "the other end is gone".into() };
        self.streams.send(theirs).await.map_err(lost)?;
        Ok(ours)
    }

    async fn finish(&self, mut writer: DuplexStream) -> Result<(), Error> {
        writer.shutdown().await.map_err(|e| Error::Lost { reason: e.to_string() })
    }

    async fn accept(&self) -> Result<DuplexStream, Error> {
        let stream = self.accepted.lock().await.recv().await;
        stream.ok_or_else(|| Error::Lost { reason: "the other end is gone".into() })
    }

    async fn closed(&self) -> Error {
        let mut cut = self.cut.subscribe();
        let reason = cut.wait_for(Option::is_some).await.ok().and_then(|r| r.clone());
        Error::Lost { reason: reason.unwrap_or_default() }
    }

    fn close(&self, why: &Error) {
        self.cut.send_if_modified(|cut| {
            let first = cut.is_none();
            cut.get_or_insert_with(|| why.to_string());
            first
        });
    }
}

impl Drop for BadSession {
    fn drop(&mut self) {
        self.close(&Error::Lost { reason: "dropped".into() });
    }
}

/// Connects the two ends anew whenever their connection was cut, as a dialer would.
struct Switch {
    near: watch::Sender<Option<mpsc::Sender<BadSession>>>,
    far: watch::Sender<Option<mpsc::Sender<BadSession>>>,
}

impl Switch {
    async fn run(self: Arc<Self>, dice: Dice) {
        let (mut near, mut far) = (self.near.subscribe(), self.far.subscribe());
        loop {
            let (one, other) = BadSession::pair(&dice);
            let mut cut = one.cut.subscribe();
            for (side, session) in [(&mut near, one), (&mut far, other)] {
                let arrivals = side.borrow_and_update().clone();
                if let Some(arrivals) = arrivals
                    && arrivals.send(session).await.is_err()
                    && side.changed().await.is_err()
                {
                    return;
                }
            }
            tokio::select! {
                _ = cut.wait_for(Option::is_some) => {}
                _ = far.changed() => {}
            }
        }
    }
}

struct Switched {
    switch: Arc<Switch>,
    task: JoinHandle<()>,
}

impl Drop for Switched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct BadSessions(u64);

impl Wire for BadSessions {
    type Host = Option<Switched>;

    fn promises(&self) -> Promises {
        Promises { shape: Shape::Session, ordered: false, exact: false, most_held: usize::MAX }
    }

    async fn pair(&self) -> (End<Self::Host>, End<Self::Host>) {
        let switch = Arc::new(Switch { near: watch::Sender::new(None), far: watch::Sender::new(None) });
        let near = plug(peers()[0], &switch.near, None);
        let task = tokio::spawn(Arc::clone(&switch).run(Dice::new(self.0)));
        let host = Some(Switched { switch: Arc::clone(&switch), task });
        (near, plug(peers()[1], &switch.far, host))
    }

    async fn restart(&self, far: End<Self::Host>) -> End<Self::Host> {
        let End { link, host, .. } = far;
        drop(link);
        let switch = Arc::clone(&host.as_ref().expect("the far end holds the switch").switch);
        plug(peers()[1], &switch.far, host)
    }
}

fn plug(
    peer: AuthorityId,
    side: &watch::Sender<Option<mpsc::Sender<BadSession>>>,
    host: Option<Switched>,
) -> End<Option<Switched>> {
    let ((sender, events), (arrivals, arriving)) = (mpsc::channel(8), mpsc::channel(1));
    side.send_replace(Some(arrivals));
    End::new(session_link(peer, arriving, sender), events, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_misbehaves_conforms() {
    for seed in 1..4 {
        conforms(BadMailboxes(seed)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_breaks_off_conforms() {
    for seed in 1..4 {
        conforms(BadSessions(seed)).await;
    }
}

/// A mailbox that gives back what was put, less some bytes at first: as a tool that copies slowly, or stops half-way.
struct SlowCopy {
    entry: Mutex<Option<Vec<u8>>>,
    /// Bytes that are still missing at each look; the last number holds from then on.
    missing: Vec<usize>,
    looks: AtomicUsize,
    /// At which look the entry was set aside.
    aside: mpsc::Sender<usize>,
}

impl Mailbox for SlowCopy {
    async fn put(&self, _class: Priority, entry: Bytes) -> Result<(), Error> {
        *self.entry.lock().expect("whole") = Some(entry.to_vec());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>, Error> {
        Ok(self.entry.lock().expect("whole").iter().map(|_| "entry".to_owned()).collect())
    }

    async fn get(&self, _name: &str) -> Result<Option<Vec<u8>>, Error> {
        let look = self.looks.fetch_add(1, Ordering::SeqCst);
        let missing = self.missing[look.min(self.missing.len() - 1)];
        Ok(self.entry.lock().expect("whole").as_ref().map(|entry| entry[..entry.len() - missing].to_vec()))
    }

    async fn remove(&self, _name: &str) -> Result<(), Error> {
        *self.entry.lock().expect("whole") = None;
        Ok(())
    }

    async fn set_aside(&self, name: &str) -> Result<(), Error> {
        self.aside.send(self.looks.load(Ordering::SeqCst)).await.expect("somebody listens");
        self.remove(name).await
    }
}

/// What becomes of one entry: the frame, or the look at which it was set aside.
async fn slow_copy(missing: Vec<usize>) -> Result<Vec<u8>, usize> {
    let (aside, mut set_aside) = mpsc::channel(1);
    let mailbox = SlowCopy { entry: Mutex::default(), missing, looks: AtomicUsize::new(0), aside };
    let (sender, events) = mpsc::channel(8);
    let link = mailbox_link(peers()[0], mailbox, Duration::from_millis(1), sender);
    let mut end = End::new(link, events, ());
    end.up().await;
    end.link.send(Priority::Record, frame(1, 500)).await.expect("up");
    tokio::select! {
        event = timeout(DEADLINE, end.events.recv()) => Ok(end.observe(event.expect("in time")).expect("a frame")),
        look = set_aside.recv() => Err(look.expect("the mailbox lives")),
    }
}

#[tokio::test]
async fn an_entry_that_grows_is_waited_for_and_one_that_does_not_is_set_aside() {
    assert_eq!(slow_copy((0..30).rev().collect()).await.as_deref(), Ok(&frame(1, 500)[..]));
    // It stands still for four looks at a time, then grows.
    assert!(slow_copy([9, 9, 9, 9, 8, 8, 8, 8, 7, 7, 7, 7, 0].into()).await.is_ok());
    assert_eq!(slow_copy([9].into()).await, Err(5));
    assert_eq!(slow_copy([9, 8].into()).await, Err(6));
}

#[tokio::test]
async fn a_newer_session_takes_the_place_of_the_older() {
    let dice = Dice::new(1);
    let ((old, old_far), (new, new_far)) = (BadSession::pair(&dice), BadSession::pair(&dice));
    let ((arrivals, arriving), (sender, events)) = (mpsc::channel(1), mpsc::channel(8));
    let mut end = End::new(session_link(peers()[0], arriving, sender), events, ());
    arrivals.send(old).await.expect("the driver runs");
    end.up().await;
    arrivals.send(new).await.expect("the driver runs");
    end.down().await;
    end.up().await;
    assert!(old_far.closed().await.to_string().contains("newer"));
    assert!(new_far.cut.borrow().is_none(), "the newer one goes on");
}
