//! `jincai bench idle`: what a node with one link costs when nothing happens: memory, processor, network.
//!
//! Two nodes run in processes of their own; what they send each other passes a counter, which adds to each datagram the 28
//! bytes of its IPv4 and UDP headers.

use crate::clock;
use crate::demo::nodes::{DemoNode, prepare, wait_for};
use crate::error::Error;
use crate::output::{progress, progress_done, show};
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// IPv4 and UDP headers.
const HEADERS: u64 = 28;
const DATAGRAM: usize = 65_536;

/// Measures and prints.
pub(crate) fn idle(settle: u64, seconds: u64, json: bool) -> Result<(), Error> {
    if !(1..=86_400).contains(&seconds) || settle > 86_400 {
        return Err(Error::Check("bench idle: --seconds from 1 to 86400 and --settle up to 86400 are wanted".into()));
    }
    let system = |what| move |source| Error::System { what, source };
    let temporary = tempfile::tempdir().map_err(system("a temporary directory"))?;
    let mut nodes = prepare(temporary.path())?;
    nodes.truncate(2);
    let Some(mut below) = nodes.pop() else { return Err(Error::Check("no node below".into())) };
    let Some(mut above) = nodes.pop() else { return Err(Error::Check("no node above".into())) };
    let counter = Counter::between(&below)?;
    above.start()?;
    below.start()?;
    wait_for("the link", || Ok((below.status()?["links"][0]["up"] == json!(true)).then_some(())))?;
    pass("settling", settle);
    let (processor, bytes) = (below.cpu().unwrap_or_default(), counter.bytes());
    let begun = clock::instant();
    pass("measuring", seconds);
    let elapsed = begun.elapsed().as_secs_f64();
    let (processor, bytes) = (below.cpu().unwrap_or_default() - processor, counter.bytes() - bytes);
    let (resident, anonymous) = below.memory().unwrap_or_default();
    below.stop()?;
    above.stop()?;
    let value = json!({
        "seconds": elapsed, "settled_seconds": settle,
        "resident_kib": resident, "anonymous_kib": anonymous,
        "cpu_percent_of_a_core": processor.as_secs_f64() / elapsed * 100.0,
        "network_bytes": bytes, "network_bytes_a_day": (bytes as f64 / elapsed * 86_400.0).round(),
    });
    show(&value, json);
    Ok(())
}

fn pass(what: &str, seconds: u64) {
    let begun = clock::instant();
    while begun.elapsed() < Duration::from_secs(seconds) {
        progress(&format!("{what}: {} of {seconds} s", begun.elapsed().as_secs()));
        std::thread::sleep(Duration::from_millis(200));
    }
    progress_done();
}

/// Stands between two nodes and counts what passes, both ways.
struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Puts itself between a node and the one that it dials, by changing the node's configuration file.
    fn between(below: &DemoNode) -> Result<Self, Error> {
        let system = |source| Error::System { what: "a UDP socket", source };
        let file = |source| Error::File { path: below.file.clone(), source };
        let text = std::fs::read_to_string(&below.file).map_err(file)?;
        let mark = "address = \"";
        let start =
            text.find(mark).map(|at| at + mark.len()).ok_or_else(|| Error::Check("the node dials nobody".into()))?;
        let end = start + text[start..].find('"').unwrap_or_default();
        let there: SocketAddr = text[start..end].parse().map_err(|_| Error::Check("the node's address".into()))?;
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").map_err(system)?);
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").map_err(system)?);
        back.connect(there).map_err(system)?;
        let here = front.local_addr().map_err(system)?;
        std::fs::write(&below.file, format!("{}{here}{}", &text[..start], &text[end..])).map_err(file)?;
        let bytes = Arc::new(AtomicU64::new(0));
        let caller = Arc::new(std::sync::Mutex::new(None));
        // The threads end with the process.
        let (up, known, count) = ((Arc::clone(&front), Arc::clone(&back)), Arc::clone(&caller), Arc::clone(&bytes));
        std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM];
            while let Ok((length, from)) = up.0.recv_from(&mut datagram) {
                *known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(from);
                count.fetch_add(length as u64 + HEADERS, Ordering::Relaxed);
                // What is lost here is sent again.
                drop(up.1.send(&datagram[..length]));
            }
        });
        let count = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM];
            // Refused while nobody listens there yet.
            loop {
                let Ok(length) = back.recv(&mut datagram) else { continue };
                count.fetch_add(length as u64 + HEADERS, Ordering::Relaxed);
                if let Some(to) = *caller.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
                    drop(front.send_to(&datagram[..length], to));
                }
            }
        });
        Ok(Self(bytes))
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
