//! Faults of disks and processes below a real node: power cuts of a file system on a loop device, failing and short system
//! calls, a full and a read-only disk, kills aimed at system calls, out of memory, crash loops. After each, everything that
//! was acknowledged must be there, once.
//!
//! These tests need root (mounts, control groups) and the programs that tests/install.sh installs.

use crate::load::Book;
use crate::node::{Chain, Node, Pair, wait_for};
use serde_json::json;
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
        // Another test may copy the table of mounts meanwhile (a network namespace does). Below a shared mount the copy
        // loses the volume with us, and what is mounted next is not what the copy has kept from before the power cut.
        let shared = directory.path().to_str().expect("a plain path");
        run("mount", &["--bind", shared, shared]);
        run("mount", &["--make-shared", shared]);
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

    /// The file system finds an error in itself.
    fn report_error(&self) {
        let mounts = fs::read_to_string("/proc/mounts").expect("readable");
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&self.text())).expect("mounted");
        let device = line.split(' ').next().and_then(|device| device.strip_prefix("/dev/")).expect("a device");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test").expect("the error is taken");
    }

    /// Mends what an error has left, as a machine does when it starts.
    fn check(&self) {
        let image = self.directory.path().join("image");
        // 1: errors were found and mended.
        let done = Command::new("e2fsck").args(["-p", "-f"]).arg(image).output().expect("e2fsck");
        assert!(done.status.code().is_some_and(|code| code <= 1), "{}", String::from_utf8_lossy(&done.stdout));
    }

    /// The power is gone: nothing that is not on the device comes to it any more.
    fn cut_power(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", &self.text()]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for path in [self.path(), self.directory.path().to_owned()] {
            drop(Command::new("umount").arg("--lazy").arg(path).output());
        }
    }
}

pub(crate) fn whole(node: &Node, when: &str) {
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
#[expect(clippy::print_stdout, reason = "how many, for whoever runs it by hand")]
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

/// A node on a disk that fills up: what is new is refused by name, the node stays up, restarts, and goes on once there is
/// room again.
fn fills_up(journal: &str) {
    let volume = Volume::new("ext4", 128, "");
    let mut node = Node::ministry_on(&volume.path().join("data"), journal);
    node.start();
    let book = Book::default();
    book.fill(&node, |book| book.acknowledged() >= 50, || {});
    let ballast = volume.path().join("ballast");
    fill_to_the_brim(&ballast);
    let refused = |node: &Node| {
        let body = json!({ "to": "000000000", "id": "later", "text": "x".repeat(100_000) }).to_string();
        let (status, value) = node.post("/api/v1/messages", &body);
        assert!(status == 200 || (status, value["code"].as_str()) == (503, Some("JC-1305")), "{status} {value}");
        (status == 503).then_some(())
    };
    wait_for("the node to refuse what is new", || refused(&node));
    assert_eq!(node.request("GET", "/readyz", None, "").0, 200, "it answers");
    assert!(node.text("/metrics").contains("jincai_full 1"));
    book.check(&node, "while the disk is full");
    for round in 0..3 {
        if round % 2 == 0 {
            node.kill()
        } else {
            node.stop()
        }
        node.start();
        wait_for("the node to refuse what is new", || refused(&node));
        book.check(&node, "after a restart on a full disk");
    }
    fs::remove_file(&ballast).expect("room");
    wait_for("the node to take something", || book.send_one(&node).then_some(()));
    book.check(&node, "after there was room again");
    node.stop();
    whole(&node, "a full disk");
}

/// Takes every byte that there is, down to single blocks.
fn fill_to_the_brim(path: &std::path::Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).expect("a file");
    let mut piece = 4 << 20;
    while piece >= 512 {
        if file.write_all(&vec![1; piece]).is_err() {
            piece /= 2;
        }
    }
    drop(file.sync_all());
}

#[test]
fn a_full_disk_is_noticed_before_it_is_full() {
    fills_up("free_mib = 16\ncheckpoint_mib = 1\n");
}

#[test]
fn a_disk_that_is_full_to_the_last_block_is_survived() {
    fills_up("free_mib = 0\ncheckpoint_mib = 1\n");
}

/// A relay whose disk is full takes no batches and says so; nothing is lost, and everything arrives once there is room.
#[test]
fn a_full_neighbour_is_shown_and_gets_everything_later() {
    let volume = Volume::new("ext4", 128, "");
    let mut pair = Pair::over_quic_with(&volume.path().join("province"), "free_mib = 16\n");
    let ballast = volume.path().join("ballast");
    fill_to_the_brim(&ballast);
    wait_for("the ministry to see it", || {
        (pair.ministry.get("/api/v1/links")["links"][0]["full"] == true).then_some(())
    });
    for number in 0..20 {
        let body = json!({ "to": "370000000", "id": format!("m{number:02}"), "text": "x" }).to_string();
        assert_eq!(pair.ministry.post("/api/v1/messages", &body).0, 200, "the sender keeps it");
    }
    assert_eq!(pair.province.get("/api/v1/messages")["count"], 0);
    fs::remove_file(&ballast).expect("room");
    wait_for("everything to arrive", || (pair.province.get("/api/v1/messages")["count"] == 20).then_some(()));
    wait_for("custody to end", || (pair.ministry.get("/api/v1/links")["links"][0]["batches"] == 0).then_some(()));
    pair.province.stop();
}

/// The disk of a county is full: the ministry, two hops away, keeps what is for it, names it to whoever submits to it, and
/// goes on with everybody else.
#[test]
fn a_full_county_is_named_to_the_ministrys_submitters() {
    let volume = Volume::new("ext4", 128, "");
    let directory = tempfile::tempdir().expect("a directory");
    let share = "[policy]\nshare_bytes = [65536, 65536, 65536, 65536]\n";
    let mut chain = Chain::over_quic_with(directory, &volume.path().join("county"), "free_mib = 16\n", share);
    let ballast = volume.path().join("ballast");
    fill_to_the_brim(&ballast);
    wait_for("the province to see it", || {
        let links = chain.province.get("/api/v1/links");
        links["links"].as_array()?.iter().any(|link| link["full"] == true).then_some(())
    });
    let send = |to: &str, id: String| {
        let body = json!({ "to": to, "id": id, "text": "x".repeat(5_000) }).to_string();
        chain.ministry.post("/api/v1/messages", &body)
    };
    let mut taken = 0;
    let refusal = wait_for("the ministry to refuse", || {
        let (status, answer) = send("370502000", format!("m{taken:03}"));
        taken += u64::from(status == 200);
        (status != 200).then_some((status, answer))
    });
    assert_eq!((refusal.0, &refusal.1["code"]), (503, &json!("JC-1226")));
    let reason = "waits for 370502000: its disk is full, said by 370000000";
    assert!(refusal.1["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{}", refusal.1);
    for arguments in [&["status"][..], &["queue", "list"], &["queue", "show", "370000000"]] {
        let shown = chain.ministry.command_json(arguments).to_string();
        assert!(shown.contains(reason), "{arguments:?}: {shown}");
    }
    let at_the_province = chain.province.command_json(&["queue", "list"]).to_string();
    assert!(at_the_province.contains("waits for 370502000: its disk is full, said by 370502000"), "{at_the_province}");
    let metric = "jincai_held_back_bytes{peer=\"370000000\",hop=\"370502000\",class=\"record\",why=\"full\"}";
    assert!(chain.ministry.text("/metrics").contains(metric));
    assert_eq!(send("370000000", "other".into()).0, 200, "others go on");
    wait_for("the other message", || (chain.province.get("/api/v1/messages")["count"] == 1).then_some(()));
    fs::remove_file(&ballast).expect("room");
    wait_for("everything to arrive", || (chain.county.get("/api/v1/messages")["count"] == taken).then_some(()));
    wait_for("the ministry to take more", || (send("370502000", "last".into()).0 == 200).then_some(()));
    chain.county.stop();
}

/// The kernel makes the file system read-only under the node, as it does after an error.
#[test]
fn a_disk_that_turns_read_only_stops_the_node_and_loses_nothing() {
    let volume = Volume::new("ext4", 128, ",errors=remount-ro");
    let mut node = Node::ministry_on(&volume.path().join("data"), "free_mib = 16\n");
    node.start();
    let book = Book::default();
    book.fill(
        &node,
        |book| book.acknowledged() >= 400,
        || {
            book.wait_for(60);
            volume.report_error();
            wait_for("the node to stop", || node.is_gone().then_some(()));
            book.close();
        },
    );
    assert!(!node.wait_for_end().success());
    assert!(node.log().contains("JC-11"), "it says why: {}", node.log());
    volume.unmount();
    volume.check();
    volume.mount();
    whole(&node, "read-only");
    node.start();
    book.check(&node, "after a disk turned read-only");
}

/// Every sync takes two seconds: slow, and nothing else.
#[test]
fn a_disk_with_slow_syncs_delays_answers_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Node::ministry_in(&directory.path().join("data"));
    let inject = "inject=fdatasync:delay_exit=2000000:when=12+";
    node.start_below("strace", &["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject]);
    node.wait_until_ready();
    let book = Book::default();
    book.fill(&node, |book| book.acknowledged() >= 24, || {});
    assert_eq!(node.request("GET", "/healthz", None, "").0, 200, "a slow disk is no standstill");
    node.kill_tree();
    whole(&node, "slow");
    node.start();
    book.check(&node, "slow syncs");
}

/// Writes that take only a part of what they were given, and interrupted ones: both are legal.
#[test]
fn short_and_interrupted_writes_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, library) = (directory.path().join("short.c"), directory.path().join("short.so"));
    fs::write(&source, SHORT_WRITES).expect("written");
    let (from, to) = (source.to_str().expect("a path"), library.to_str().expect("a path"));
    run("cc", &["-shared", "-fPIC", "-O1", "-o", to, from, "-ldl"]);
    let mut node = Node::ministry_in(&directory.path().join("data"));
    node.spawn(Command::new(env!("CARGO_BIN_EXE_jincai")).env("LD_PRELOAD", &library));
    node.wait_until_ready();
    let book = Book::default();
    book.fill(&node, |book| book.acknowledged() >= 300, || {});
    node.kill();
    whole(&node, "short writes");
    node.start();
    book.check(&node, "short writes");
}

/// Below the process: every second `pwrite64` and `write` to a file is cut in half, every fifth is interrupted.
const SHORT_WRITES: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned calls;

static int odd(int fd, size_t *length) {
    struct stat about;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) return 0;
    unsigned call = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (call % 5 == 0) { errno = EINTR; return 1; }
    if (call % 2 == 0 && *length > 1) *length /= 2;
    return 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    return odd(fd, &length) ? -1 : real(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    return odd(fd, &length) ? -1 : real(fd, bytes, length);
}
"#;
