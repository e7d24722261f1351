//! Faults of networks between two real nodes, each in a network namespace of its own, with tests/network/shaper.py as the
//! wire. Whatever the wire does, every acknowledged message arrives once, in order.
//!
//! These tests need root.

use crate::node::{Node, Pair, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Messages each way and phase.
const MESSAGES: usize = 20;

/// Two namespaces and the wire between them.
pub(crate) struct Wire {
    names: [String; 2],
    shaper: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Wire {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b"].map(|end| format!("jincai-{}-{number}{end}", std::process::id()));
        for name in &names {
            let added = Command::new("ip").args(["netns", "add", name]).status().expect("ip (iproute2)");
            assert!(added.success(), "network namespaces need root");
        }
        let script = "../../tests/network/shaper.py";
        let mut command = Command::new("python3");
        let mut shaper =
            command.arg(script).args(&names).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let input = shaper.stdin.take().expect("piped");
        let output = BufReader::new(shaper.stdout.take().expect("piped"));
        let mut wire = Self { names, shaper, input, output };
        wire.hear("ready");
        wire
    }

    fn hear(&mut self, wanted: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the shaper answers");
        assert_eq!(line.trim(), wanted);
    }

    /// Changes the wire, from now on.
    fn shape(&mut self, change: &Value) {
        writeln!(self.input, "{change}").expect("the shaper listens");
        self.hear("done");
    }

    /// A perfect wire.
    fn mend(&mut self) {
        self.shape(&json!({ "way": "both" }));
    }

    /// Runs `ip` for one end.
    fn ip(&self, end: usize, arguments: &[&str]) {
        let done = Command::new("ip").args(["-n", &self.names[end]]).args(arguments).status().expect("ip");
        assert!(done.success(), "{arguments:?}");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.shaper.kill());
        drop(self.shaper.wait());
        for name in &self.names {
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
    }
}

/// Two nodes on a wire, and how many messages they have sent each other.
struct World {
    // The nodes go first.
    pair: Pair,
    wire: Wire,
    sent: usize,
}

impl World {
    fn new() -> Self {
        let wire = Wire::new();
        let pair = Pair::apart(&wire.names[0], &wire.names[1]);
        Self { pair, wire, sent: 0 }
    }

    /// Sends messages both ways; the nodes acknowledge them, whatever the wire does.
    fn send(&mut self) {
        for number in self.sent..self.sent + MESSAGES {
            for (node, to) in [(&self.pair.ministry, "370000000"), (&self.pair.province, "000000000")] {
                let body = json!({ "to": to, "id": format!("m{number:04}"), "text": "x".repeat(700) }).to_string();
                let (status, value) = node.post("/api/v1/messages", &body);
                assert_eq!(status, 200, "{value}");
            }
        }
        self.sent += MESSAGES;
    }

    /// Waits until everything has arrived, and checks that it did so once and in order.
    fn arrives(&self, when: &str) {
        let expected: Vec<String> = (0..self.sent).map(|number| format!("m{number:04}")).collect();
        for node in [&self.pair.province, &self.pair.ministry] {
            let count = |node: &Node| node.get("/api/v1/messages")["count"].as_u64().unwrap_or_default() as usize;
            wait_for(when, || (count(node) >= self.sent).then_some(()));
            let value = node.get("/api/v1/messages");
            let ids: Vec<&str> =
                value["newest"].as_array().expect("a list").iter().filter_map(|n| n["id"].as_str()).collect();
            assert_eq!(ids, expected, "{when}: all, once and in order");
        }
    }

    /// Works under a shape, and again on a perfect wire.
    fn survives(&mut self, change: &Value) {
        self.wire.shape(change);
        self.send();
        self.arrives(&change.to_string());
        self.wire.mend();
        self.send();
        self.arrives("a mended wire");
    }
}

#[test]
fn loss_of_every_rate_only_delays() {
    let mut world = World::new();
    for loss in [0.01, 0.1, 0.3] {
        world.survives(&json!({ "way": "both", "loss": loss, "delay": 0.02 }));
    }
}

#[test]
fn duplicates_and_overtaking_change_nothing() {
    let mut world = World::new();
    world.survives(&json!({ "way": "both", "duplicate": 0.5, "delay": 0.01 }));
    world.survives(&json!({ "way": "both", "reorder": 0.5, "jitter": 0.1, "delay": 0.01 }));
    world.survives(&json!({ "way": "both", "duplicate": 0.3, "reorder": 0.3, "loss": 0.05, "jitter": 0.05 }));
}

#[test]
fn two_seconds_of_delay_only_delay() {
    World::new().survives(&json!({ "way": "both", "delay": 2.0 }));
}

#[test]
fn a_thin_line_carries_everything_in_time() {
    World::new().survives(&json!({ "way": "both", "rate": 64_000, "delay": 0.05 }));
}

/// A hop in the middle takes no packet of more than 1,280 bytes, and tells nobody.
#[test]
fn a_small_mtu_that_nobody_tells_of_is_found() {
    let mut world = World::new();
    world.survives(&json!({ "way": "both", "longest": 1280 }));
    // From the first handshake on.
    world.wire.shape(&json!({ "way": "both", "longest": 1280 }));
    world.pair.province.stop();
    world.pair.province.start();
    world.send();
    world.arrives("a new connection over a small MTU");
}

#[test]
fn partitions_both_ways_and_one_way_heal() {
    let mut world = World::new();
    for way in ["both", "ab", "ba"] {
        world.wire.shape(&json!({ "way": way, "blocked": true }));
        world.send();
        // Long enough that both have noticed: a connection that carries nothing one way is dead.
        wait_for("the link to be given up", || {
            let up = |node: &Node| node.get("/api/v1/links")["links"][0]["up"] == true;
            (!up(&world.pair.ministry) && !up(&world.pair.province)).then_some(())
        });
        world.wire.mend();
        world.arrives(way);
    }
}

/// The ministry's machine vanishes without a word and comes back: the province must notice by itself.
#[test]
fn a_half_open_connection_is_noticed() {
    let mut world = World::new();
    world.wire.shape(&json!({ "way": "both", "blocked": true }));
    world.pair.ministry.kill();
    world.pair.ministry.start();
    world.wire.mend();
    world.send();
    world.arrives("a peer that has forgotten the connection");
}

/// The province gets another address, as behind a modem that dials again.
#[test]
fn a_changed_address_is_survived() {
    let mut world = World::new();
    world.send();
    world.wire.ip(1, &["address", "add", "10.99.0.77/24", "dev", "jcb"]);
    world.wire.ip(1, &["address", "del", "10.99.0.2/24", "dev", "jcb"]);
    // What is left of the old address does not come back.
    world.wire.ip(1, &["address", "replace", "10.99.0.77/24", "dev", "jcb"]);
    world.send();
    world.arrives("another address");
}

/// Noise and half-made connections by the thousand from a stranger, meanwhile everything goes on.
#[test]
fn a_flood_of_strangers_stops_nobody() {
    let mut world = World::new();
    world.send();
    let name = world.wire.names[1].clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::node::enter(&name);
            let mut packet = [0u8; 1200];
            let mut number: u32 = 0;
            while !stop.load(Ordering::Relaxed) {
                // A new socket now and then: another stranger.
                let socket = UdpSocket::bind("10.99.0.2:0").expect("a socket");
                for _ in 0..50 {
                    number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // The form of a QUIC version 1 Initial packet with a random connection id, and noise behind it.
                    packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
                    packet[6..10].copy_from_slice(&number.to_be_bytes());
                    packet[20..24].copy_from_slice(&number.to_le_bytes());
                    drop(socket.send_to(&packet, "10.99.0.1:7000"));
                }
                std::thread::yield_now();
            }
        });
        for _ in 0..3 {
            world.send();
            world.arrives("a flood");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.pair.ministry.request("GET", "/healthz", None, "").0, 200);
}
