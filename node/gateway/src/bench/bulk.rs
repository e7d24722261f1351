//! `jincai bench bulk`: a file from one node's process to another's over QUIC on loopback, through the API and the code that
//! production runs.
//!
//! The clock runs from the first byte that a caller hands over until the file is whole at the other node: durable in the store
//! of the first, in both journals on its way, and in the store of the second, checked against its tree at each end. The
//! bytes are random, so that nothing is found to be known already. Afterwards the copy is read and compared, byte by byte.

use crate::clock;
use crate::demo::nodes::{DemoNode, prepare, wait_for};
use crate::error::Error;
use crate::file;
use crate::output::{progress, progress_done, show};
use jincai_crypto::{Entropy, SeededEntropy};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// How long the file may take.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// How often the destination is looked at.
const LOOK: Duration = Duration::from_millis(5);

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Measures and prints.
pub(crate) fn bulk(bytes: u64, directory: Option<&Path>, json: bool) -> Result<(), Error> {
    if !(1..=1 << 40).contains(&bytes) {
        return Err(Error::Check("bench bulk: --bytes from 1 to 1099511627776 is wanted".into()));
    }
    let temporary = tempfile::tempdir_in(directory.unwrap_or(&std::env::temp_dir()));
    let temporary = temporary.map_err(system("a temporary directory"))?;
    let mut nodes = prepare(temporary.path())?;
    nodes.truncate(2);
    let Some(mut to) = nodes.pop() else { return Err(Error::Check("no node to send to".into())) };
    let Some(mut from) = nodes.pop() else { return Err(Error::Check("no node to send from".into())) };
    from.start()?;
    to.start()?;
    wait_for("the nodes to know each other", || {
        let status = from.status()?;
        let known = status["authorities"].as_array().map_or(0, Vec::len) >= 2;
        Ok((known && status["links"][0]["up"] == json!(true)).then_some(()))
    })?;
    let (warm, measured) = (temporary.path().join("warm"), temporary.path().join("measured"));
    write_random(&warm, (bytes / 10).clamp(1, 64 << 20), 1)?;
    write_random(&measured, bytes, 2)?;
    transfer(&from, &to, &warm)?;
    let used = |node: &DemoNode| node.cpu().ok_or_else(|| Error::Check("no processor time is told".into()));
    let before = (used(&from)?, used(&to)?);
    let begun = clock::instant();
    let accepted = transfer(&from, &to, &measured)?;
    let elapsed = begun.elapsed();
    let cpu = (used(&from)? - before.0, used(&to)? - before.1);
    let taken = accepted - begun;
    compare(&to, &measured)?;
    let disk = (disk_of(&from)?, disk_of(&to)?);
    from.stop()?;
    to.stop()?;
    let megabytes = bytes as f64 / 1e6;
    let value = json!({
        "jincai": (megabytes / elapsed.as_secs_f64() * 10.0).round() / 10.0, "unit": "MB/s", "bytes": bytes,
        "seconds": elapsed.as_secs_f64(), "seconds_until_accepted": taken.as_secs_f64(),
        "cpu_ms_per_mb": (cpu.0 + cpu.1).as_secs_f64() * 1e3 / megabytes,
        "cpu_ms_per_mb_origin": cpu.0.as_secs_f64() * 1e3 / megabytes,
        "cpu_ms_per_mb_destination": cpu.1.as_secs_f64() * 1e3 / megabytes,
        "journal_bytes_origin": disk.0, "journal_bytes_destination": disk.1,
        "durable": "fdatasync at both ends", "signed": "Ed25519 per batch", "encrypted": "AES-256-GCM per message",
        "verified": "each chunk at both ends; the copy compared afterwards",
    });
    show(&value, json);
    Ok(())
}

/// Sends a file and waits until it is whole at the other node; tells when the first had accepted it.
fn transfer(from: &DemoNode, to: &DemoNode, path: &Path) -> Result<std::time::Instant, Error> {
    let sent = file::send(&from.client, path, to.authority.as_str(), (None, None))?;
    let accepted = clock::instant();
    let id = sent["id"].as_str().unwrap_or_default();
    let address = format!("/api/v1/files/{id}");
    loop {
        // Before the offer has come, the other node knows of no such file.
        let seen = to.client.get(&address).unwrap_or(Value::Null);
        match seen["state"].as_str() {
            Some("whole") => break,
            Some("failed") => return Err(Error::Check(format!("the transfer failed: {}", seen["reason"]))),
            _ => {}
        }
        if accepted.elapsed() > PATIENCE {
            return Err(Error::Check(format!("not there within {} s", PATIENCE.as_secs())));
        }
        let (bytes, size) = (seen["bytes"].as_u64().unwrap_or(0), seen["size"].as_u64().unwrap_or(0));
        progress(&format!("{} of {} MB stored at the other node", bytes / 1_000_000, size / 1_000_000));
        std::thread::sleep(LOOK);
    }
    progress_done();
    Ok(accepted)
}

/// Random bytes, durable, so that nothing of them is left to be written while the clock runs.
pub(super) fn write_random(path: &Path, bytes: u64, seed: u64) -> Result<(), Error> {
    let mut entropy = SeededEntropy::new(seed);
    let mut file = File::create(path).map_err(system("the file to send"))?;
    let (mut left, mut piece) = (bytes, vec![0; 1 << 20]);
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        entropy.fill(&mut piece[..now])?;
        file.write_all(&piece[..now]).map_err(system("the file to send"))?;
        left -= now as u64;
    }
    file.sync_all().map_err(system("the file to send"))
}

/// The copy is what was sent.
fn compare(to: &DemoNode, path: &Path) -> Result<(), Error> {
    let files = to.client.get("/api/v1/files?direction=in&state=whole&limit=1000")?;
    let size = std::fs::metadata(path).map_err(system("the file that was sent"))?.len();
    let wanted = |file: &&Value| file["size"].as_u64() == Some(size) && file["name"].as_str() == Some("measured");
    let found = files["files"].as_array().and_then(|files| files.iter().find(wanted));
    let id = found.and_then(|file| file["id"].as_str()).ok_or_else(|| Error::Check("the copy is not listed".into()))?;
    let mut same = Same { file: File::open(path).map_err(system("the file that was sent"))?, equal: true };
    let read = to.client.download(&format!("/api/v1/files/{id}/content"), &mut same, &mut |_| {})?;
    if same.equal && read == size { Ok(()) } else { Err(Error::Check("the copy is not what was sent".into())) }
}

/// Compares what is written into it with a file.
struct Same {
    file: File,
    equal: bool,
}

impl Write for Same {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut sent = vec![0; bytes.len()];
        self.equal &= self.file.read_exact(&mut sent).is_ok() && sent == bytes;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes of a node's journal and the files that its snapshots carry.
fn disk_of(node: &DemoNode) -> Result<u64, Error> {
    let config = crate::config::Config::load(&node.file)?;
    let mut sum = 0;
    for name in ["journal", "blobs"] {
        for entry in std::fs::read_dir(config.file(name)).map_err(system("a journal"))? {
            let metadata = entry.and_then(|entry| entry.metadata()).map_err(system("a journal"))?;
            sum += metadata.len();
        }
    }
    Ok(sum)
}
