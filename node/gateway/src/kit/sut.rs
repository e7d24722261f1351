//! The system under test: its directory, its configuration, its process, and what it says that it has applied.
//!
//! ```text
//! DIRECTORY/sut.json        its configuration: the last argument of its command
//! DIRECTORY/to-sut/         its incoming drop directory
//! DIRECTORY/from-sut/       its outgoing one
//! DIRECTORY/submit/         messages that it shall send, NAME.json each; it removes one once the message is durable
//! DIRECTORY/data/           its own
//! DIRECTORY/applied.jsonl   what it has applied, a line each
//! DIRECTORY/sut.log         what it prints
//! ```

use super::neighbour::World;
use super::{Failure, wrong};
use crate::error::{Error, read, write_private};
use jincai_types::{decode, hex};
use minicbor::bytes::ByteArray;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The pace that its configuration asks for, in milliseconds.
const RETRY: u64 = 250;
const RECEIPT: u64 = 50;
const LAST_WORDS: usize = 300;

/// A message that it says it has applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// The lane, as text.
    pub(super) lane: String,
    /// Its number there.
    pub(super) sequence: u64,
    /// Its id.
    pub(super) id: String,
    /// Its payload, hexadecimal.
    pub(super) payload: String,
}

/// One life after the other of the system under test.
pub(super) struct Sut {
    directory: PathBuf,
    command: String,
    child: Option<Child>,
}

impl Sut {
    /// Lays the directory; nothing runs yet.
    pub(super) fn prepare(directory: &Path, command: &str, world: &World) -> Result<Self, Error> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        fs::create_dir_all(directory.parent().unwrap_or(directory)).map_err(file(directory))?;
        // A new one: what an earlier run left must not be judged.
        fs::create_dir(directory).map_err(file(directory))?;
        for name in ["to-sut", "from-sut", "submit", "data"] {
            fs::create_dir(directory.join(name)).map_err(file(directory))?;
        }
        let sut = Self { directory: directory.to_owned(), command: command.to_owned(), child: None };
        write_private(
            &sut.path("sut.json"),
            &serde_json::to_vec_pretty(&sut.configuration(world)?).unwrap_or_default(),
        )?;
        Ok(sut)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn configuration(&self, world: &World) -> Result<serde_json::Value, Error> {
        type KeyFile = (u8, ByteArray<32>, ByteArray<32>, ByteArray<32>, ByteArray<32>);
        let (_, signing, _, _, encryption): KeyFile = decode("key file", &world.province_keys.to_bytes(), 4096)?;
        let cards = |chain: &jincai_crypto::CardChain| chain.0.iter().map(|card| hex(card)).collect::<Vec<_>>();
        Ok(json!({
            "format": 1,
            "authority": world.province,
            "signing_key": hex(&*signing), "encryption_key": hex(&*encryption),
            "cards": cards(&world.province_cards),
            "root": world.root.to_string(),
            "peer": world.ministry,
            "peer_cards": cards(&world.ministry_cards),
            "incoming": self.path("to-sut"), "outgoing": self.path("from-sut"),
            "submit": self.path("submit"), "data": self.path("data"), "applied": self.path("applied.jsonl"),
            "retry_ms": RETRY, "receipt_ms": RECEIPT,
        }))
    }

    /// Starts the command, in a process group of its own, with the configuration as its last argument.
    pub(super) fn start(&mut self) -> Result<(), Error> {
        let path = self.path("sut.log");
        let file = |source| Error::File { path: path.clone(), source };
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(file)?;
        let again = log.try_clone().map_err(file)?;
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{} \"$1\"", self.command))
            .arg("sut")
            .arg(self.path("sut.json"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::System { what: "the command of the system under test", source })?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it as a power cut would: whatever it has not made durable is gone, as far as a process can lose it.
    pub(super) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // A group that is gone has ended already.
            kill_process_group(group, Signal::KILL).ok();
        }
        // It was killed: there is nothing left to wait for but its end.
        child.wait().ok();
    }

    /// Takes away what it has not removed from its incoming directory, as a share that is mounted anew may.
    pub(super) fn lose_incoming(&self) -> Result<(), Error> {
        let path = self.path("to-sut");
        let lose = || fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path));
        lose().map_err(|source| Error::File { path: path.clone(), source })
    }

    /// Says how it ended, if it has without being told to.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let log = fs::read(self.path("sut.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let words = log.trim().lines().last().unwrap_or_default();
        let words: String = words.chars().take(LAST_WORDS).collect();
        Some(format!("the system under test ended by itself ({status}): {words}"))
    }

    /// Hands it a message to send to its neighbour, on the lane of records.
    pub(super) fn submit(&self, id: &str, payload: &[u8]) -> Result<(), Error> {
        let message = json!({ "id": id, "type": "jincai.note", "class": "record", "payload": hex(payload) });
        let part = self.path("submit").join(format!(".{id}.part"));
        write_private(&part, message.to_string().as_bytes())?;
        let whole = self.path("submit").join(format!("{id}.json"));
        fs::rename(&part, &whole).map_err(|source| Error::File { path: whole, source })
    }

    /// Whether it has said that a message it was handed is durable.
    pub(super) fn took(&self, id: &str) -> bool {
        !self.path("submit").join(format!("{id}.json")).exists()
    }

    /// Whether it has fetched everything that was put for it.
    pub(super) fn has_fetched(&self) -> bool {
        let entries = fs::read_dir(self.path("to-sut")).into_iter().flatten().flatten();
        !entries.into_iter().any(|entry| entry.path().extension().is_some_and(|extension| extension == "frame"))
    }

    /// What it says that it has applied; a line that it is still writing does not count.
    pub(super) fn applied(&self) -> Result<Vec<Applied>, Failure> {
        let path = self.path("applied.jsonl");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).or_else(|e| wrong(format!("applied.jsonl: {e}: {line}")))).collect()
    }

    /// Puts a file into its incoming directory, under this very name, whatever it holds.
    pub(super) fn put(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        write_private(&self.path("to-sut").join(name), content)
    }
}

impl Drop for Sut {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A drop entry of a frame (docs/protocol.md, Transports).
pub(super) fn entry(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
    [b"JCP1".as_slice(), &length, &jincai_crypto::sha256(frame).0, frame].concat()
}
