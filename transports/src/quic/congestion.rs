//! How much may be under way on a path: a model of it in the manner of BBR (Cardwell et al., draft-cardwell-iccrg-bbr-congestion-
//! control), made of the rate at which packets are delivered and the shortest round trip.
//!
//! quinn's own BBR takes the shortest round trip that a connection ever had for the path's, for ever: after a path has grown
//! longer, as when traffic is routed another way, it carries a window of the old length for each round trip of the new one
//! (measured: 4 of 100 Mbit/s after 1 ms had become 100 ms). A link between two nodes stays up for months, so the shortest
//! round trip is one of the last five seconds here. quinn paces by the window alone, so the window is what cycles: up, to find
//! more room; down to what the path itself holds, so that queues drain and the round trip is seen; and between the two.
//!
//! Loss alone is no sign of a full path on a poor network: what is lost however little is under way is the path's own, and the
//! window has room for it. Loss of more than that, by [`LOSS`], takes the window down.

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The window before anything is known, in packets; and the least ever.
const INITIAL: u64 = 32;
const LEAST: u64 = 4;
/// Growth of the window in a round trip while the path's rate is not known: enough to double what is delivered (2 / ln 2).
const STARTUP: f64 = 2.885;
/// The rate is known when so many round trips have not brought a quarter more.
const PLATEAU: u32 = 3;
const GROWTH: f64 = 1.25;
/// What is under way in each round trip of a cycle, as a share of what the path itself holds.
const CYCLE: [f64; 8] = [1.5, 0.9, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25];
/// Round trips for which a rate counts: more than a cycle; fewer of long ones, so that a path that has grown narrower is not
/// filled for long.
const RATE_ROUNDS: (u64, u64) = (10, 3);
const RATE_COUNTS: Duration = Duration::from_millis(1_500);
/// How long a shortest round trip counts before the path is emptied to see it anew, and for how long that is.
const RTT_COUNTS: Duration = Duration::from_secs(5);
const RTT_PROBE: Duration = Duration::from_millis(200);
/// A path holds at least what it delivers in this time: below it, round trips are the machines' and not the path's.
const SHORTEST: Duration = Duration::from_millis(5);
/// Round trips that lose so much more than the path itself have met a full queue; the window falls to this part, at last to
/// what the path itself holds, and grows back by this factor.
const LOSS: f64 = 0.06;
const FALL: f64 = 0.85;
const LEAST_SHARE: f64 = 0.7;
const RISE: f64 = 1.1;
/// Shares of loss that the path's own is the least of, one of so many packets each; and most that it is taken for.
const LOSSES: usize = 16;
const LOSS_OF: u64 = 30;
const MOST_LOSS: f64 = 0.4;
/// Most times of sending that are remembered; what is sent at one moment counts once.
const REMEMBERED: usize = 65_536;

/// What was known when packets were sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packets were sent whose delivery had been heard of last.
    first_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The rate is not known yet.
    Startup,
    /// What the search for the rate has piled up drains.
    Drain,
    /// A round trip of the cycle, and when it began.
    Cycle(usize, Instant),
    /// The path is emptied until then, once little enough is under way.
    Empty(Option<Instant>),
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Path {
    mtu: u64,
    phase: Phase,
    window: u64,
    sent: VecDeque<Sent>,
    delivered: u64,
    delivered_at: Instant,
    first_at: Instant,
    /// When the newest packet of which delivery was heard had been sent.
    newest: Option<Instant>,
    /// Nothing was under way when that was heard.
    idle: bool,
    acknowledged: u64,
    lost: u64,
    round: u64,
    /// The round ends when something is delivered that was sent after so much had been.
    round_end: u64,
    /// Delivered and lost lately, and the shares of loss before that.
    counts: (u64, u64),
    losses: VecDeque<f64>,
    /// Rates in bytes a second by round, each higher than all after it.
    rates: Highest,
    plateau: (f64, u32),
    rtt: Option<(Duration, Instant)>,
    /// Bytes that came at once beyond the rate, by round, as `rates`; and since when they are counted.
    bursts: Highest,
    burst: (Instant, u64),
    /// Most that loss leaves, as a share of the window.
    share: f64,
}

/// Makes a [`Path`] for every new connection or path.
#[derive(Debug)]
pub(super) struct Paths;

impl ControllerFactory for Paths {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Path::new(now, u64::from(current_mtu)))
    }
}

/// The highest value of the last rounds: values by round and time, each higher than all after it.
#[derive(Clone, Debug, Default)]
struct Highest(VecDeque<(u64, Instant, f64)>);

impl Highest {
    fn note(&mut self, round: u64, now: Instant, value: f64) {
        while self.0.back().is_some_and(|(.., before)| *before <= value) {
            self.0.pop_back();
        }
        self.0.push_back((round, now, value));
        let (most, long) = RATE_ROUNDS;
        let counts = |(at, time, _): &(u64, Instant, f64)| {
            round - at <= long || (round - at <= most && now - *time <= RATE_COUNTS)
        };
        while self.0.front().is_some_and(|first| !counts(first)) {
            self.0.pop_front();
        }
    }

    fn get(&self) -> f64 {
        self.0.front().map_or(0.0, |(.., value)| *value)
    }
}

impl Path {
    fn new(now: Instant, mtu: u64) -> Self {
        Self {
            mtu,
            phase: Phase::Startup,
            window: INITIAL * mtu,
            sent: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_at: now,
            newest: None,
            idle: true,
            acknowledged: 0,
            lost: 0,
            round: 0,
            round_end: 0,
            counts: (0, 0),
            losses: VecDeque::new(),
            rates: Highest::default(),
            plateau: (0.0, 0),
            rtt: None,
            bursts: Highest::default(),
            burst: (now, 0),
            share: 1.0,
        }
    }

    /// The rate of the path in bytes a second.
    fn rate(&self) -> f64 {
        self.rates.get()
    }

    /// What the path itself holds at its rate, in bytes, with what it loses.
    fn holds(&self) -> f64 {
        let rtt = self.rtt.map_or(SHORTEST, |(rtt, _)| rtt.max(SHORTEST));
        self.rate() * rtt.as_secs_f64() / (1.0 - self.own_loss())
    }

    /// The share that the path loses however little is under way.
    fn own_loss(&self) -> f64 {
        let known = self.losses.len() == LOSSES;
        self.losses.iter().copied().fold(if known { MOST_LOSS } else { 0.0 }, f64::min)
    }

    /// The window of the present phase.
    fn target(&self) -> u64 {
        let burst = self.bursts.get();
        let bytes = match self.phase {
            Phase::Startup => STARTUP * self.holds() + burst,
            Phase::Drain => self.holds(),
            Phase::Cycle(at, _) => (CYCLE[at] * self.holds() + burst) * self.share,
            Phase::Empty(_) => 0.5 * self.holds(),
        };
        (bytes as u64).max(LEAST * self.mtu)
    }

    /// A rate from the packets of which delivery was heard last, and whether a round ended with them.
    fn sample(&mut self, now: Instant, app_limited: bool) -> bool {
        let Some(newest) = self.newest else { return false };
        while self.sent.front().is_some_and(|sent| sent.at < newest) {
            self.sent.pop_front();
        }
        let Some(sent) = self.sent.front().copied().filter(|sent| sent.at == newest) else { return false };
        self.first_at = newest;
        let new_round = sent.delivered >= self.round_end;
        if new_round {
            self.round += 1;
            self.round_end = self.delivered;
        }
        // Deliveries are heard of in lumps: the slower of sending and hearing is the path's.
        let elapsed = (now - sent.delivered_at).max(sent.at - sent.first_at);
        if !elapsed.is_zero() {
            let rate = (self.delivered - sent.delivered) as f64 / elapsed.as_secs_f64();
            if !app_limited || rate > self.rate() {
                self.rates.note(self.round, now, rate);
            }
        }
        new_round
    }

    /// Remembers how much comes at once beyond the rate: a window without room for it would starve the path meanwhile.
    fn note_burst(&mut self, now: Instant) {
        let expected = self.rate() * (now - self.burst.0).as_secs_f64();
        if (self.burst.1 as f64) <= expected {
            self.burst = (now, 0);
        }
        self.burst.1 += self.acknowledged;
        let expected = self.rate() * (now - self.burst.0).as_secs_f64();
        let beyond = (self.burst.1 as f64 - expected).clamp(0.0, self.holds().max((INITIAL * self.mtu) as f64));
        self.bursts.note(self.round, now, beyond);
    }

    /// Whether a shortest round trip has counted for so long that it has to be seen anew.
    fn is_rtt_old(&self, now: Instant) -> bool {
        self.rtt.is_some_and(|(_, at)| now.saturating_duration_since(at) > RTT_COUNTS)
    }

    fn next_phase(&mut self, now: Instant, in_flight: u64, new_round: bool, app_limited: bool) {
        let rtt = self.rtt.map_or(SHORTEST, |(rtt, _)| rtt.max(SHORTEST));
        match self.phase {
            Phase::Startup => {
                if new_round && !app_limited {
                    let (before, rounds) = self.plateau;
                    self.plateau = if self.rate() >= before * GROWTH { (self.rate(), 0) } else { (before, rounds + 1) };
                }
                if self.plateau.1 >= PLATEAU {
                    self.phase = Phase::Drain;
                }
            }
            Phase::Drain if in_flight as f64 <= self.holds() => self.phase = Phase::Cycle(2, now),
            Phase::Cycle(at, since) => {
                let drained = CYCLE[at] < 1.0 && (in_flight as f64) <= CYCLE[at] * self.holds();
                if now - since > rtt && (CYCLE[at] >= 1.0 || drained || now - since > 3 * rtt) {
                    self.phase = Phase::Cycle((at + 1) % CYCLE.len(), now);
                }
            }
            Phase::Empty(None) if in_flight <= self.target() + self.mtu => {
                self.phase = Phase::Empty(Some(now + RTT_PROBE.max(rtt)));
            }
            Phase::Empty(Some(until)) if now >= until => {
                self.phase = if self.plateau.1 >= PLATEAU { Phase::Cycle(0, now) } else { Phase::Startup };
            }
            Phase::Drain | Phase::Empty(_) => {}
        }
    }

    /// What has been lost lately, at the end of a round.
    fn end_round(&mut self) {
        let (delivered, lost) = self.counts;
        if delivered + lost < LOSS_OF * self.mtu {
            return;
        }
        self.counts = (0, 0);
        let loss = lost as f64 / (delivered + lost) as f64;
        if loss > self.own_loss() + LOSS {
            self.share = (self.share * FALL).max(LEAST_SHARE);
            if self.phase == Phase::Startup && self.rate() > 0.0 {
                self.plateau.1 = PLATEAU;
            }
        } else {
            self.share = (self.share * RISE).min(1.0);
        }
        self.losses.push_back(loss);
        if self.losses.len() > LOSSES {
            self.losses.pop_front();
        }
    }
}

impl Path {
    fn sends(&mut self, now: Instant) {
        if std::mem::take(&mut self.idle) {
            // What was not sent meanwhile was not slow.
            self.delivered_at = now;
            self.first_at = now;
        }
        if self.sent.back().is_none_or(|last| last.at < now) && self.sent.len() < REMEMBERED {
            let (delivered, delivered_at, first_at) = (self.delivered, self.delivered_at, self.first_at);
            self.sent.push_back(Sent { at: now, delivered, delivered_at, first_at });
        }
    }

    fn hears(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.acknowledged += bytes;
        self.newest = self.newest.max(Some(sent));
        self.delivered_at = now;
    }

    /// All that one acknowledgement says has been heard.
    fn has_heard(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.idle = in_flight == 0;
        let Some(newest) = self.newest.filter(|_| self.acknowledged > 0) else { return };
        let rtt = now - newest;
        let old = self.is_rtt_old(now);
        if old && !app_limited && !matches!(self.phase, Phase::Empty(_)) {
            self.phase = Phase::Empty(None);
        }
        if old || self.rtt.is_none_or(|(shortest, _)| rtt <= shortest) {
            self.rtt = Some((rtt, now));
        }
        self.note_burst(now);
        let new_round = self.sample(now, app_limited);
        self.counts.0 += self.acknowledged;
        self.counts.1 += std::mem::take(&mut self.lost);
        if new_round {
            self.end_round();
        }
        self.next_phase(now, in_flight, new_round, app_limited);
        let grown = self.window + std::mem::take(&mut self.acknowledged);
        self.window = match self.phase {
            // Never down: a rate that is not known yet says too little.
            Phase::Startup => self.window.max(grown.min(self.target().max(INITIAL * self.mtu))),
            _ => grown.min(self.target()),
        };
    }

    fn loses(&mut self, now: Instant, bytes: u64, is_persistent: bool) {
        self.lost += bytes;
        if is_persistent {
            // Nothing comes through: what was known of the path is worth nothing.
            let (delivered, lost, mtu) = (self.delivered, self.lost, self.mtu);
            *self = Self { delivered, lost, ..Self::new(now, mtu) };
            self.window = LEAST * self.mtu;
        }
    }
}

impl Controller for Path {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.sends(now);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.hears(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.has_heard(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.loses(now, lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(LEAST * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window.max(LEAST * self.mtu)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a first moment to count virtual time from")]
mod tests {
    use super::*;

    const PACKET: u64 = 1_200;

    /// A line, and when it becomes so.
    #[derive(Clone, Copy)]
    struct Line {
        from: f64,
        /// Bits a second.
        rate: f64,
        /// There and back.
        rtt: f64,
        /// What the narrow place keeps, in seconds.
        buffer: f64,
        loss: f64,
    }

    const LINE: Line = Line { from: 0.0, rate: 1e8, rtt: 0.1, buffer: 0.1, loss: 0.0 };

    /// What became of a packet: when its sender hears of it, when it was sent, whether it was lost.
    type Fate = (f64, f64, bool);

    struct Sender {
        path: Path,
        fates: VecDeque<Fate>,
        in_flight: u64,
        smoothed: f64,
        next: f64,
        /// Bytes delivered in each second, and lost.
        seconds: Vec<u64>,
        lost: Vec<u64>,
    }

    /// Lets senders share lines for some seconds, each sending all that its window and quinn's pacing allow; the bits a second
    /// that each had delivered in the last of them, the longest that a packet waited in the narrow place then, and the share lost.
    fn share(lines: &[Line], senders: usize, seconds: f64, last: f64) -> (Vec<f64>, f64, f64) {
        let (begun, mut dice) = (Instant::now(), 7_u64);
        let at = |time: f64| begun + Duration::from_secs_f64(time);
        let new = || Sender {
            path: Path::new(begun, PACKET),
            fates: VecDeque::new(),
            in_flight: 0,
            smoothed: 0.1,
            next: 0.0,
            seconds: vec![0; seconds as usize + 1],
            lost: vec![0; seconds as usize + 1],
        };
        let mut senders: Vec<Sender> = (0..senders).map(|_| new()).collect();
        let (mut now, mut free, mut waited) = (0.0_f64, 0.0_f64, 0.0_f64);
        while now < seconds {
            let line = *lines.iter().rev().find(|line| line.from <= now).expect("a line from the beginning");
            for sender in &mut senders {
                while sender.next <= now && sender.in_flight + PACKET <= sender.path.window() {
                    sender.path.sends(at(now));
                    sender.in_flight += PACKET;
                    let pace = 1.25 * sender.path.window() as f64 / sender.smoothed;
                    sender.next = sender.next.max(now - 0.002) + PACKET as f64 / pace;
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let unlucky = ((dice >> 40) as f64) < line.loss * f64::from(1_u32 << 24);
                    let wait = (free - now).max(0.0);
                    let full = wait > line.buffer;
                    if !full && !unlucky {
                        free = free.max(now) + PACKET as f64 * 8.0 / line.rate;
                        if now > seconds - last {
                            waited = waited.max(wait);
                        }
                    }
                    let heard = free.max(now) + line.rtt + if full || unlucky { 0.005 } else { 0.0 };
                    sender.fates.push_back((heard, now, full || unlucky));
                }
                let mut heard = false;
                while let Some((_, sent, lost)) = sender.fates.pop_front_if(|(when, ..)| *when <= now) {
                    sender.in_flight -= PACKET;
                    if lost {
                        sender.path.loses(at(now), PACKET, false);
                        sender.lost[now as usize] += PACKET;
                    } else {
                        sender.path.hears(at(now), at(sent), PACKET);
                        sender.smoothed += (now - sent - sender.smoothed) / 8.0;
                        sender.seconds[now as usize] += PACKET;
                        heard = true;
                    }
                }
                if heard {
                    sender.path.has_heard(at(now), sender.in_flight, false);
                }
            }
            now += 0.000_5;
        }
        let first = (seconds - last) as usize;
        let rate = |sender: &Sender| sender.seconds[first..].iter().sum::<u64>() as f64 * 8.0 / last;
        let all = |of: fn(&Sender) -> &Vec<u64>| senders.iter().flat_map(|s| &of(s)[first..]).sum::<u64>() as f64;
        let (delivered, lost) = (all(|sender| &sender.seconds), all(|sender| &sender.lost));
        (senders.iter().map(rate).collect(), waited, lost / (delivered + lost))
    }

    fn alone(lines: &[Line], seconds: f64, last: f64) -> (f64, f64) {
        let (rates, waited, _) = share(lines, 1, seconds, last);
        (rates[0], waited)
    }

    #[test]
    fn a_line_is_filled_and_its_queue_is_not() {
        for (rate, rtt) in [(1e8, 0.1), (1e7, 0.02), (1e9, 0.01), (64_000.0, 0.3)] {
            let line = Line { rate, rtt, buffer: 1.0, ..LINE };
            let (got, waited) = alone(&[line], 20.0, 10.0);
            assert!(got > 0.85 * rate, "{got:.0} of {rate:.0} bit/s at {rtt} s");
            let packets = 8.0 * PACKET as f64 * 8.0 / rate;
            assert!(waited < rtt.max(0.005) + packets, "{waited} s in the queue at {rate:.0} bit/s, {rtt} s");
        }
    }

    #[test]
    fn loss_that_is_none_of_its_doing_costs_little() {
        for (loss, least) in [(0.01, 0.8), (0.03, 0.7), (0.3, 0.15)] {
            let (got, _) = alone(&[Line { loss, ..LINE }], 20.0, 10.0);
            assert!(got > least * LINE.rate, "{got:.0} bit/s at {loss}");
        }
    }

    /// With the shortest round trip of all time, a window of the old path's length is all that a longer path ever carries.
    #[test]
    fn a_path_that_grows_longer_is_filled_again() {
        let short = Line { rtt: 0.001, ..LINE };
        let (got, _) = alone(&[short, Line { from: 5.0, ..LINE }], 40.0, 15.0);
        assert!(got > 0.85 * LINE.rate, "{got:.0} bit/s");
    }

    #[test]
    fn a_line_that_grows_narrower_or_wider_is_followed() {
        let narrow = Line { rate: 1e7, from: 5.0, buffer: 1.0, ..LINE };
        let (got, waited) = alone(&[LINE, narrow], 20.0, 8.0);
        assert!(got > 8.5e6 && waited < 0.2, "{got:.0} bit/s, {waited} s in the queue");
        let (got, _) = alone(&[Line { rate: 1e7, ..LINE }, Line { from: 5.0, ..LINE }], 40.0, 10.0);
        assert!(got > 0.85 * LINE.rate, "{got:.0} bit/s");
    }

    /// What is found out costs no more than a queue of a tenth of a round trip can bear.
    #[test]
    fn a_short_queue_is_not_hammered() {
        let line = Line { buffer: 0.01, ..LINE };
        let (got, _, lost) = share(&[line], 1, 30.0, 15.0);
        assert!(got[0] > 0.8 * LINE.rate && lost < 0.1, "{got:?} bit/s, {lost} lost");
    }

    #[test]
    fn two_share_a_line() {
        let (got, ..) = share(&[LINE], 2, 60.0, 40.0);
        let (least, most) = (got[0].min(got[1]), got[0].max(got[1]));
        assert!(least + most > 0.85 * LINE.rate && least > 0.3 * most, "{got:?}");
    }

    #[test]
    fn a_path_through_which_nothing_comes_is_tried_anew() {
        let begun = Instant::now();
        let mut path = Path::new(begun, PACKET);
        path.sends(begun);
        path.loses(begun + Duration::from_secs(3), PACKET, true);
        assert_eq!(path.window(), LEAST * PACKET);
        let mut now = begun + Duration::from_secs(4);
        for _ in 0..20 {
            let sent = now;
            path.sends(sent);
            now += Duration::from_millis(50);
            path.hears(now, sent, path.window());
            path.has_heard(now, 0, false);
        }
        assert!(path.window() > 8 * LEAST * PACKET, "{}", path.window());
    }
}
