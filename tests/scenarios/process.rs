//! What happens to processes: the memory killer, crash loops, SIGTERM under load, clocks that jump. After each, everything
//! that was acknowledged must be there, once.

use crate::disk::whole;
use crate::load::Book;
use crate::node::{Node, Pair, wait_for};
use crate::restore::{ids, send};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group with a memory limit, of version 1 or 2; needs root.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let name = format!("jincai-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let group = Self(if first.is_dir() { first.join(name) } else { Path::new("/sys/fs/cgroup").join(name) });
        fs::create_dir(&group.0).expect("a control group (as root)");
        group
    }

    /// Limits the memory: whoever needs more is killed.
    fn limit(&self, bytes: u64) {
        let files = ["memory.max", "memory.limit_in_bytes"].map(|name| self.0.join(name));
        let file = files.iter().find(|file| file.exists()).expect("the memory controller");
        fs::write(file, bytes.to_string()).expect("limited");
    }

    /// A command that joins the group before it becomes the program.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        let join = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", self.0.display());
        command.args(["-c", &join, env!("CARGO_BIN_EXE_jincai")]);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn an_out_of_memory_kill_loses_nothing() {
    let group = Group::new();
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Node::ministry_in(&directory.path().join("data"));
    for round in 0..3 {
        group.limit(96 << 20);
        node.spawn(&mut group.command());
        node.wait_until_ready();
        let book = Book::default();
        book.fill_from(
            round * 300,
            &node,
            |book| book.acknowledged() >= 250,
            || {
                book.wait_for(50);
                // More than it may have, and less than what a request may hold.
                let large = "1,a,1,\n".repeat(16 << 20);
                let answer = node.try_post("/api/v1/dictionary/national/sets/BIG", &large);
                assert!(answer.is_none(), "the memory killer did not come: {answer:?}");
                book.close();
            },
        );
        node.wait_for_end();
        whole(&node, "out of memory");
        node.start();
        book.check_among(&node, 1_000, "out of memory");
        node.stop();
    }
}

/// Killed again and again while it starts, it comes up with everything in the end.
#[test]
fn a_crash_loop_loses_nothing() {
    let mut node = Node::ministry();
    let book = Book::default();
    book.fill(&node, |book| book.acknowledged() >= 200, || {});
    node.kill();
    for lines in 0..12 {
        node.spawn(&mut Command::new(env!("CARGO_BIN_EXE_jincai")));
        // At another point of the start each time: nothing is known about how fast it is, but the log's first line.
        wait_for("the start", || (lines % 3 == 0 || node.log().contains("the journal is open")).then_some(()));
        for _ in 0..lines * 50 {
            std::thread::yield_now();
        }
        node.kill();
    }
    whole(&node, "a crash loop");
    node.start();
    book.check(&node, "a crash loop");
}

#[test]
fn sigterm_under_load_drains_and_closes_the_journal() {
    let mut node = Node::ministry();
    for round in 0..3 {
        let book = Book::default();
        book.fill_from(
            round * 300,
            &node,
            |book| book.acknowledged() >= 290,
            || {
                book.wait_for(60);
                node.terminate();
            },
        );
        assert!(node.wait_for_end().success(), "{}", node.log());
        let report = node.command_json(&["journal", "verify"]);
        assert_eq!((&report["clean"], &report["chain_whole"]), (&true.into(), &true.into()), "{report}");
        node.start();
        book.check_among(&node, 1_000, "stopped");
    }
}

/// The wall clock jumps by a day, by a year, back and forth, to 29 February, and across the turn of a year.
#[test]
fn clocks_that_jump_stop_nothing_and_lose_nothing() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    let found =
        ["/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1", library].into_iter().find(|p| Path::new(p).exists());
    let library = found.expect("libfaketime; tests/install.sh installs it");
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Node::ministry_in(&directory.path().join("data"));
    let time = directory.path().join("time");
    let set = |text: &str| {
        // Replaced as a whole: the library reads it at any moment.
        let new = time.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &time)).expect("written");
    };
    set("+0");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jincai"));
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &time).env("FAKETIME_NO_CACHE", "1");
    node.spawn(command.env("DONT_FAKE_MONOTONIC", "1"));
    node.wait_until_ready();
    let book = Book::default();
    let hour = |node: &Node| node.get("/api/v1/status")["time"].as_u64().unwrap_or_default() / 3_600_000;
    let now = hour(&node);
    for (jump, days) in [("+1d", 1), ("+366d", 366), ("-1d", -1), ("-366d", -366), ("+0", 0)] {
        set(jump);
        let moved = now.saturating_add_signed(days * 24);
        wait_for("the clock to jump", || (hour(&node).abs_diff(moved) <= 1).then_some(()));
        for _ in 0..10 {
            assert!(book.send_one(&node), "{jump}: it goes on");
        }
    }
    for day in ["@2028-02-28 23:59:59", "@2026-12-31 23:59:59"] {
        set(day);
        wait_for("the clock to jump", || (hour(&node).abs_diff(now) > 48).then_some(()));
        for _ in 0..10 {
            assert!(book.send_one(&node), "{day}: it goes on");
        }
    }
    node.kill();
    node.start();
    book.check(&node, "clocks that jump");
    assert_eq!(book.acknowledged(), 70);
}

/// A superior is killed without a word and comes back. Its inferior, for which the connection is alive, hears with the first packet
/// that it sends that nobody knows it any more, and calls again.
#[test]
fn a_killed_superior_is_called_again_at_once_when_it_is_back() {
    let mut pair = Pair::over_patient_quic();
    pair.ministry.kill();
    pair.ministry.start();
    send(&pair.province, "000000000", "m1");
    wait_for("the message", || (ids(&pair.ministry) == ["m1"]).then_some(()));
}
