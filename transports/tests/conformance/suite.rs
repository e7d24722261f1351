//! The contract as a suite: what the exchange may rely on, whatever wire carries its frames.
//!
//! A wire that may lose frames is driven as the exchange drives it: what has not arrived after a while is sent again.

use bytes::Bytes;
use jincai_transports::{Error, Link, LinkEvent, Shape};
use jincai_types::{AuthorityId, Priority, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Nothing in the suite takes this long unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// The exchange's retry time, as a wire that loses sees it.
const RETRY: Duration = Duration::from_millis(150);
/// A sender that got no room for this long is held back, not merely slow.
const STALLED: Duration = Duration::from_secs(1);

/// What a wire promises beyond the contract.
pub(crate) struct Promises {
    pub(crate) shape: Shape,
    /// Frames of one class arrive in order.
    pub(crate) ordered: bool,
    /// Nothing is lost or doubled while both ends are up.
    pub(crate) exact: bool,
    /// Most bytes that it takes from a sender whose neighbour reads nothing.
    pub(crate) most_held: usize,
}

/// A wire under test.
pub(crate) trait Wire {
    /// What keeps one end working besides its link.
    type Host;
    fn promises(&self) -> Promises;
    /// Two neighbours, the near one being the one that dials where that matters.
    async fn pair(&self) -> (End<Self::Host>, End<Self::Host>);
    /// Stops the far end and starts it anew in the same place.
    async fn restart(&self, far: End<Self::Host>) -> End<Self::Host>;
}

/// One end of a pair, as the gateway sees it.
pub(crate) struct End<H> {
    pub(crate) link: Link,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) peer: AuthorityId,
    pub(crate) host: H,
    pub(crate) ups: u32,
    pub(crate) downs: u32,
    /// Everything that was ever sent from here: what may come again is one of these.
    sent: BTreeSet<Bytes>,
}

impl<H> End<H> {
    pub(crate) fn new(link: Link, events: mpsc::Receiver<LinkEvent>, host: H) -> Self {
        Self { peer: link.peer(), link, events, host, ups: 0, downs: 0, sent: BTreeSet::new() }
    }

    /// Takes note of an event; up and down must alternate, and frames come in between only.
    pub(crate) fn observe(&mut self, event: Option<LinkEvent>) -> Option<Vec<u8>> {
        let event = event.expect("the driver still reports");
        match event {
            LinkEvent::Up { peer, .. } => {
                assert_eq!(peer, self.peer);
                assert_eq!(self.ups, self.downs, "up while up");
                self.ups += 1;
                None
            }
            LinkEvent::Down { peer, reason } => {
                assert_eq!(peer, self.peer);
                assert_eq!(self.ups, self.downs + 1, "down while down: {reason}");
                assert!(!reason.is_empty());
                self.downs += 1;
                None
            }
            LinkEvent::Frame { peer, bytes } => {
                assert_eq!(peer, self.peer);
                assert_eq!(self.ups, self.downs + 1, "a frame while down");
                Some(bytes)
            }
        }
    }

    /// Waits for the next event that is no frame.
    pub(crate) async fn change(&mut self) {
        let before = self.ups + self.downs;
        while self.ups + self.downs == before {
            let event = timeout(DEADLINE, self.events.recv()).await.expect("an event within the deadline");
            self.observe(event);
        }
    }

    /// Waits until the link is up.
    pub(crate) async fn up(&mut self) {
        while self.ups == self.downs {
            self.change().await;
        }
    }

    /// Waits until the link is down.
    pub(crate) async fn down(&mut self) {
        while self.ups > self.downs {
            self.change().await;
        }
    }
}

/// A frame that says which one it is, padded to a size.
pub(crate) fn frame(number: u32, size: usize) -> Bytes {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((0..size.saturating_sub(4)).map(|i| (i as u32).wrapping_mul(number | 1).to_be_bytes()[2]));
    bytes.truncate(size);
    bytes.into()
}

/// Sends frames, again where the wire may lose, until all have arrived; returns them in the order of arrival.
pub(crate) async fn deliver<H>(
    from: &mut End<H>,
    to: &mut End<H>,
    frames: &[(Priority, Bytes)],
    exact: bool,
) -> Vec<Vec<u8>> {
    let mut missing: BTreeMap<&[u8], Priority> = frames.iter().map(|(class, f)| (f.as_ref(), *class)).collect();
    assert_eq!(missing.len(), frames.len(), "the frames of a test differ");
    from.sent.extend(frames.iter().map(|(_, f)| f.clone()));
    let mut arrived = Vec::new();
    let limit = Instant::now() + DEADLINE;
    while !missing.is_empty() {
        let round: Vec<(Priority, Bytes)> =
            frames.iter().filter(|(_, f)| missing.contains_key(f.as_ref())).cloned().collect();
        let mut waiting = round.into_iter();
        let mut current = waiting.next();
        let mut quiet = Instant::now() + RETRY;
        while !missing.is_empty() {
            assert!(Instant::now() < limit, "{} frames never arrived", missing.len());
            // Room for one frame at a time, so that both ends' events are seen meanwhile.
            if let Some((class, frame)) = &current {
                match from.link.try_send(*class, frame.clone()) {
                    Ok(()) => {
                        current = waiting.next();
                        quiet = Instant::now() + RETRY;
                        if current.is_some() {
                            continue;
                        }
                    }
                    Err(Error::Full { .. } | Error::Down { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            tokio::select! {
                event = to.events.recv() => {
                    quiet = Instant::now() + RETRY;
                    if let Some(frame) = to.observe(event) {
                        let known = missing.remove(frame.as_slice()).is_some();
                        assert!(known || !exact, "a frame came twice");
                        assert!(from.sent.contains(frame.as_slice()), "a frame that nobody sent");
                        arrived.push(frame);
                    }
                }
                event = from.events.recv() => {
                    from.observe(event);
                }
                () = sleep_until(quiet) => {
                    quiet = Instant::now() + RETRY;
                    if current.is_none() && !exact {
                        break;
                    }
                }
            }
        }
    }
    arrived
}

/// Every case of the contract, against one wire.
pub(crate) async fn conforms(wire: impl Wire) {
    let promises = wire.promises();
    let (mut near, mut far) = wire.pair().await;
    near.up().await;
    far.up().await;

    frames_arrive_as_they_were_sent(&mut near, &mut far, &promises).await;
    many_small_frames_arrive_in_order(&mut near, &mut far, &promises).await;
    frames_out_of_bounds_are_refused(&near);
    if promises.exact {
        a_slow_reader_holds_back_the_sender(&mut near, &mut far, &promises).await;
    }

    // The other end restarts, more than once.
    for round in 0..2 {
        let seen = near.downs;
        far = wire.restart(far).await;
        far.up().await;
        if promises.shape == Shape::Session {
            while near.downs == seen {
                near.change().await;
            }
        }
        near.up().await;
        let frames: Vec<_> = (0..20).map(|n| (Priority::Record, frame(100 + 20 * round + n, 3000))).collect();
        // Whoever restarts may leave entries behind that come again.
        deliver(&mut near, &mut far, &frames, promises.exact).await;
        deliver(&mut far, &mut near, &frames, promises.exact).await;
    }

    closing_is_told_once(near, far, &promises).await;
}

async fn frames_arrive_as_they_were_sent<H>(near: &mut End<H>, far: &mut End<H>, promises: &Promises) {
    let sizes = [1, 4, 5, 4096, 65_531, 65_532, 65_533, 300_000, limits::FRAME_BYTES - 1, limits::FRAME_BYTES];
    for class in Priority::ALL {
        let frames: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| (class, frame((class.index() as u32) << 24 | (i as u32) << 16 | 0x7f, *size)))
            .filter(|(_, f)| f.len() > 1 || class == Priority::Control)
            .collect();
        let (there, back) =
            (deliver(near, far, &frames, promises.exact).await, deliver(far, near, &frames, promises.exact).await);
        if promises.ordered {
            let sent: Vec<_> = frames.into_iter().map(|(_, f)| f.to_vec()).collect();
            assert!(there == sent && back == sent, "order within class {class:?}");
        }
    }
}

async fn many_small_frames_arrive_in_order<H>(near: &mut End<H>, far: &mut End<H>, promises: &Promises) {
    let count = if promises.shape == Shape::Session { 4000 } else { 200 };
    let frames: Vec<_> = (0..count).map(|n| (Priority::ALL[n as usize % 4], frame(n, 8 + n as usize % 90))).collect();
    let arrived = deliver(near, far, &frames, promises.exact).await;
    if promises.ordered {
        for class in Priority::ALL {
            let sent: Vec<&[u8]> = frames.iter().filter(|(c, _)| *c == class).map(|(_, f)| f.as_ref()).collect();
            let got: Vec<&[u8]> = arrived.iter().map(Vec::as_slice).filter(|f| sent.contains(f)).collect();
            assert_eq!(got, sent, "{class:?}");
        }
    }
}

fn frames_out_of_bounds_are_refused<H>(near: &End<H>) {
    for size in [0, limits::FRAME_BYTES + 1, 8 << 20] {
        let refused = near.link.try_send(Priority::Control, vec![0; size].into());
        assert!(matches!(refused, Err(Error::FrameSize { size: s }) if s == size as u64), "{size}: {refused:?}");
    }
}

async fn a_slow_reader_holds_back_the_sender<H>(near: &mut End<H>, far: &mut End<H>, promises: &Promises) {
    const SIZE: usize = 256 << 10;
    let mut sent = Vec::new();
    loop {
        let next = frame(1_000_000 + sent.len() as u32, SIZE);
        match timeout(STALLED, near.link.send(Priority::Bulk, next.clone())).await {
            Ok(done) => done.expect("the link stays up"),
            Err(_stalled) => break,
        }
        sent.push(next);
        let held = sent.len() * SIZE;
        assert!(held <= promises.most_held, "{held} bytes were taken and nobody reads");
    }
    assert!(matches!(near.link.try_send(Priority::Bulk, frame(1, SIZE)), Err(Error::Full { .. })));
    // Another class is not held up behind it in our queue.
    let urgent = frame(2_000_000, 100);
    near.link.try_send(Priority::Control, urgent.clone()).expect("room for what is urgent");
    let mut arrived = Vec::new();
    while arrived.len() <= sent.len() {
        let event = timeout(DEADLINE, far.events.recv()).await.expect("all arrive once they are read");
        arrived.extend(far.observe(event));
    }
    assert!(arrived.contains(&urgent.to_vec()));
    arrived.retain(|f| *f != urgent);
    if promises.ordered {
        assert!(arrived == sent.iter().map(|f| f.to_vec()).collect::<Vec<_>>());
    }
}

async fn closing_is_told_once<H>(near: End<H>, mut far: End<H>, promises: &Promises) {
    let End { link, mut events, host, ups, downs, .. } = near;
    drop(link);
    drop(host);
    let mut up = ups > downs;
    while let Some(event) = timeout(DEADLINE, events.recv()).await.expect("the driver ends") {
        let rises = matches!(event, LinkEvent::Up { .. });
        assert_eq!(up, !rises, "{event:?}");
        up = up && !matches!(event, LinkEvent::Down { .. }) || rises;
    }
    assert!(!up, "the end is told");
    if promises.shape == Shape::Session {
        far.down().await;
    }
}
