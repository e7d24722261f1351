//! Faults of disks and processes below a real node: power cuts of a file system on a loop device, failing and short system
//! calls, a full and a read-only disk, kills aimed at system calls, out of memory, crash loops. After each, everything that
//! was acknowledged must be there, once.
//!
//! These tests need root (mounts, control groups) and the programs that tests/install.sh installs.

use crate::load::Book;
use crate::node::{Node, wait_for};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Runs a program that must succeed.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; tests/install.sh installs what these tests need"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?} (as root?): {said}");
}

/// A small file system of its own on a loop device.
struct Volume {
    directory: TempDir,
    options: &'static str,
}

impl Volume {
    fn new(kind: &str, mebibytes: u64, options: &'static str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let image = directory.path().join("image");
        fs::File::create(&image).and_then(|f| f.set_len(mebibytes << 20)).expect("an image");
        fs::create_dir(directory.path().join("mount")).expect("a directory");
        run(&format!("mkfs.{kind}"), &["-q", image.to_str().expect("a plain path")]);
        let volume = Self { directory, options };
        volume.mount();
        volume
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn text(&self) -> String {
        self.path().to_str().expect("a plain path").to_owned()
    }

    fn mount(&self) {
        let image = self.directory.path().join("image");
        let options = format!("loop{}", self.options);
        run("mount", &["-o", &options, image.to_str().expect("a plain path"), &self.text()]);
    }

    fn unmount(&self) {
        run("umount", &[&self.text()]);
    }

    /// The power is gone: nothing that is not on the device comes to it any more.
    fn cut_power(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", &self.text()]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.path()).output());
    }
}

fn whole(node: &Node, when: &str) {
    let report = node.command_json(&["journal", "verify"]);
    assert_eq!(report["chain_whole"], true, "{when}: {report}");
    assert_eq!(report["damage"].as_array().map(Vec::len), Some(0), "{when}: {report}");
}

/// How many power cuts; many in a long run by hand.
#[expect(clippy::disallowed_methods, reason = "the one setting of a long run")]
fn cuts() -> usize {
    std::env::var("JINCAI_POWER_CUTS").map_or(20, |text| text.parse().expect("JINCAI_POWER_CUTS is a number"))
}

/// One file system, cut off again and again under load. The node starts anew each time on what the device kept.
fn power_is_cut(kind: &str) {
    let volume = Volume::new(kind, 512, "");
    let mut worst = 0;
    for cut in 0..cuts().div_ceil(2) {
        let place = volume.path().join(cut.to_string());
        let mut node = Node::ministry_in(&place);
        node.start();
        let book = Book::default();
        // At another moment each time, some right after an acknowledgement.
        let wanted = 3 + cut * 37 % 150;
        book.fill(
            &node,
            |book| book.acknowledged() > wanted + 200,
            || {
                book.wait_for(wanted);
                volume.cut_power();
                book.close();
            },
        );
        node.kill();
        volume.unmount();
        volume.mount();
        whole(&node, &format!("{kind}, cut {cut}"));
        node.start();
        book.check(&node, &format!("{kind}, cut {cut} after {wanted} acknowledgements"));
        worst = worst.max(book.acknowledged());
        node.stop();
        fs::remove_dir_all(place).expect("removed");
    }
    println!("{kind}: {} power cuts, up to {worst} acknowledged messages each, none lost", cuts().div_ceil(2));
}

#[test]
fn power_cuts_on_ext4_lose_nothing_acknowledged() {
    power_is_cut("ext4");
}

#[test]
fn power_cuts_on_xfs_lose_nothing_acknowledged() {
    power_is_cut("xfs");
}

/// Runs a node below strace with a fault injected, under load, until it ends; then without, and checks. Returns whether
/// the node ended by the fault.
fn survives(call: &str, fault: &str) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Node::ministry_in(&directory.path().join("data"));
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}"));
    node.start_below("strace", &["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
    let book = Book::default();
    wait_for("the fault, or enough messages", || {
        // Without an answer it has not begun to listen, or has just ended.
        book.send_one(&node);
        (node.has_ended() || book.acknowledged() > 300).then_some(())
    });
    let hit = node.has_ended();
    if hit {
        node.wait_for_end();
    } else {
        node.kill_tree();
    }
    whole(&node, &inject);
    node.start();
    book.check(&node, &inject);
    assert!(book.send_one(&node), "{inject}: it goes on");
    node.stop();
    whole(&node, &inject);
    hit
}

#[test]
fn an_fsync_that_fails_stops_the_node_and_loses_nothing() {
    for when in [6, 40, 77] {
        assert!(survives("fdatasync", &format!("error=EIO:when={when}")), "the node goes on after fdatasync {when}");
    }
}

#[test]
fn a_write_that_fails_stops_the_node_and_loses_nothing() {
    for (error, when) in [("EIO", 9), ("ENOSPC", 30), ("EROFS", 51)] {
        assert!(survives("pwrite64", &format!("error={error}:when={when}")), "the node goes on after write {when}");
    }
}

/// SIGKILL right at the system calls that matter: at a sync, a write, an answer, a name.
#[test]
fn kills_aimed_at_system_calls_lose_nothing() {
    let aims =
        [("fdatasync", 3), ("fdatasync", 11), ("fdatasync", 42), ("pwrite64", 5), ("pwrite64", 33), ("writev", 4)];
    for (call, when) in aims.into_iter().chain([("writev", 29), ("fsync", 2), ("fsync", 4), ("rename", 1)]) {
        let hit = survives(call, &format!("signal=KILL:when={when}"));
        println!("SIGKILL at call {when} of {call}: {}", if hit { "hit" } else { "never made; killed at last" });
    }
}
