//! The file drop in a temporary directory: the suite, and what a third tool or a bad disk may do to the files.

use crate::suite::{DEADLINE, End, Promises, Wire, conforms, deliver, frame};
use jincai_transports::{DropConfig, Error, LinkEvent, Shape, open_drop};
use jincai_types::{AuthorityId, Priority, limits};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

const MOST_WAITING: usize = 24;

fn far_peer() -> AuthorityId {
    "370000000".parse().expect("id")
}

fn near_peer() -> AuthorityId {
    "370502000".parse().expect("id")
}

/// The end of a pair of directories: `up` carries to the superior, `down` from it.
fn open(peer: AuthorityId, folder: &Arc<TempDir>, outgoing: &str, incoming: &str) -> End<Arc<TempDir>> {
    let (sender, events) = mpsc::channel(8);
    let config = DropConfig {
        peer,
        outgoing: folder.path().join(outgoing),
        incoming: folder.path().join(incoming),
        poll: Duration::from_millis(10),
        most_waiting: MOST_WAITING,
    };
    End::new(open_drop(config, sender).expect("two directories"), events, Arc::clone(folder))
}

fn near(folder: &Arc<TempDir>) -> End<Arc<TempDir>> {
    open(far_peer(), folder, "up", "down")
}

fn far(folder: &Arc<TempDir>) -> End<Arc<TempDir>> {
    open(near_peer(), folder, "down", "up")
}

fn folders() -> Arc<TempDir> {
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["up", "down"] {
        fs::create_dir(folder.path().join(name)).expect("created");
    }
    Arc::new(folder)
}

struct Drop;

impl Wire for Drop {
    type Host = Arc<TempDir>;

    fn promises(&self) -> Promises {
        // The queue, what may lie in the directory, the channel, and a frame in each hand.
        let most_held = (4 << 20) + (MOST_WAITING + 8 + 4) * (256 << 10);
        Promises { shape: Shape::Mailbox, ordered: true, exact: true, most_held }
    }

    async fn pair(&self) -> (End<Arc<TempDir>>, End<Arc<TempDir>>) {
        let folder = folders();
        (near(&folder), far(&folder))
    }

    async fn restart(&self, old: End<Arc<TempDir>>) -> End<Arc<TempDir>> {
        let End { link, mut events, host, .. } = old;
        drop(link);
        while timeout(DEADLINE, events.recv()).await.expect("the driver ends").is_some() {}
        far(&host)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_drop_conforms() {
    conforms(Drop).await;
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Waits until something on disk holds; the file system sends no events.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let mut ticks = interval(Duration::from_millis(5));
    let waited = timeout(DEADLINE, async {
        while !holds() {
            ticks.tick().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} within the deadline"));
}

fn file(number: u64) -> String {
    format!("1-{number:016x}-{:016x}.frame", 7)
}

/// Entries as the near end writes them.
async fn entries(folder: &Arc<TempDir>, frames: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut near = near(folder);
    near.up().await;
    let up = folder.path().join("up");
    for frame in frames {
        near.link.send(Priority::Control, frame.to_vec().into()).await.expect("up");
    }
    let whole = |name: &String| name.ends_with(".frame");
    until("the entries", || names(&up).iter().filter(|n| whole(n)).count() == frames.len()).await;
    let read = |name: String| {
        let path = up.join(name);
        let bytes = fs::read(&path).expect("readable");
        fs::remove_file(path).expect("removable");
        bytes
    };
    names(&up).into_iter().map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_frame_is_never_delivered_and_set_aside() {
    let folder = folders();
    let entry = entries(&folder, &[b"a frame of some length"]).await.remove(0);
    let up = folder.path().join("up");
    let mut altered = entry.clone();
    *altered.last_mut().expect("bytes") ^= 1;
    let too_long = vec![0; limits::FRAME_BYTES + 41];
    let bad = [&[][..], &entry[..10], &entry[..entry.len() - 1], &altered, b"garbage", &too_long];
    for (i, bytes) in (1..).zip(bad) {
        fs::write(up.join(file(i)), bytes).expect("written");
    }
    // Last in the listing, so that all the others were looked at before it.
    fs::write(up.join(file(99)), &entry).expect("written");
    let mut far = far(&folder);
    far.up().await;
    let event = timeout(DEADLINE, far.events.recv()).await.expect("in time");
    assert_eq!(far.observe(event).as_deref(), Some(&b"a frame of some length"[..]));
    until("all are set aside", || names(&up) == ["bad"]).await;
    assert_eq!(names(&up.join("bad")), (1..=6).map(file).collect::<Vec<_>>());
    assert!(far.events.try_recv().is_err(), "nothing else was delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_temporary_names_are_left_alone() {
    let folder = folders();
    let entry = entries(&folder, &[b"x"]).await.remove(0);
    let up = folder.path().join("up");
    let mut foreign = vec![
        format!(".{}.part", file(1)),
        format!(".{}.Xy12", file(1)),
        "notes.txt".into(),
        "4-0000000000000001-0000000000000007.frame".into(),
        "1-00000000000000AA-0000000000000007.frame".into(),
        format!("1-{}-0000000000000007.frame", "f".repeat(16)),
    ];
    for name in &foreign {
        fs::write(up.join(name), &entry).expect("written");
    }
    fs::create_dir(up.join(file(2))).expect("created");
    std::os::unix::fs::symlink("/dev/zero", up.join(file(3))).expect("linked");
    fs::write(up.join(file(4)), &entry).expect("written");
    let mut far = far(&folder);
    far.up().await;
    let event = timeout(DEADLINE, far.events.recv()).await.expect("in time");
    assert_eq!(far.observe(event).as_deref(), Some(&b"x"[..]));
    until("the entry is removed", || !up.join(file(4)).exists()).await;
    foreign.extend([file(2), file(3)]);
    foreign.sort();
    assert_eq!(names(&up), foreign);
    assert!(far.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_directory_holds_frames_back_until_somebody_fetches() {
    let folder = folders();
    let mut near = near(&folder);
    near.up().await;
    let mut trouble = near.link.trouble();
    let frames: Vec<_> = (0..40).map(|n| (Priority::Record, frame(n, 100))).collect();
    for (class, frame) in &frames {
        near.link.send(*class, frame.clone()).await.expect("the queue takes them");
    }
    let told = timeout(DEADLINE, trouble.wait_for(Option::is_some)).await.expect("in time").expect("held").clone();
    assert_eq!(told.map(|t| t.code), Some("JC-1717"));
    assert_eq!(names(&folder.path().join("up")).len(), MOST_WAITING);
    assert_eq!((near.ups, near.downs), (1, 0), "full is not down");
    let mut far = far(&folder);
    for (_, frame) in frames {
        let arrived = loop {
            let event = timeout(DEADLINE, far.events.recv()).await.expect("in time");
            if let Some(arrived) = far.observe(event) {
                break arrived;
            }
        };
        assert!(arrived == frame);
    }
    timeout(DEADLINE, trouble.wait_for(Option::is_none)).await.expect("all is well again").expect("held");
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_directories_take_the_link_down_and_it_comes_back_alone() {
    let folder = folders();
    let (mut near, mut far) = (near(&folder), far(&folder));
    near.up().await;
    far.up().await;
    let (up, away) = (folder.path().join("up"), folder.path().join("away"));
    fs::rename(&up, &away).expect("renamed");
    near.down().await;
    far.down().await;
    assert!(matches!(near.link.try_send(Priority::Control, frame(1, 9)), Err(Error::Down { .. })));
    assert!(!up.exists(), "a directory that is not mounted is not created");
    fs::rename(&away, &up).expect("renamed");
    near.up().await;
    far.up().await;
    deliver(&mut near, &mut far, &[(Priority::Control, frame(1, 9))], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reuses_no_name_goes_on_counting_and_clears_what_was_half_written() {
    let folder = folders();
    let up: PathBuf = folder.path().join("up");
    fs::write(up.join(format!(".{}.part", file(3))), b"half").expect("written");
    let mut seen = Vec::new();
    for round in 0u8..3 {
        let mut near = near(&folder);
        near.up().await;
        near.link.send(Priority::Interactive, vec![round + 1].into()).await.expect("up");
        until("the entry", || names(&up).iter().filter(|n| n.ends_with(".frame")).count() == seen.len() + 1).await;
        let now = names(&up);
        assert_eq!(now.len(), seen.len() + 1, "nothing half-written is left: {now:?}");
        // Its name is the last: what is newer is fetched later.
        assert_eq!(now[..seen.len()], seen);
        seen = now;
    }
    let mut far = far(&folder);
    far.up().await;
    for round in 0u8..3 {
        let event = timeout(DEADLINE, far.events.recv()).await.expect("in time");
        assert_eq!(far.observe(event), Some(vec![round + 1]));
    }
}

#[tokio::test]
async fn one_directory_for_both_directions_is_refused() {
    let (events, _receiver) = mpsc::channel::<LinkEvent>(1);
    let path = PathBuf::from("/nowhere");
    let config = DropConfig {
        peer: far_peer(),
        outgoing: path.clone(),
        incoming: path,
        poll: Duration::from_secs(1),
        most_waiting: 1,
    };
    assert!(matches!(open_drop(config, events), Err(Error::SameFolder { .. })));
}
