//! A line between two nodes of a benchmark: datagrams pass a pair of sockets on loopback, which count them, and may carry no
//! more a second than a real line would, in its time, with its queue.

use crate::clock;
use crate::demo::nodes::DemoNode;
use crate::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// IPv4 and UDP headers.
const HEADERS: u64 = 28;
const DATAGRAM: usize = 65_536;
/// Datagrams that are under way one way at most.
const UNDER_WAY: usize = 65_536;

/// What each direction of a line is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bits a second.
    pub(super) rate: u64,
    /// From one end to the other.
    pub(super) delay: Duration,
    /// What waits at the narrow place, as the time that it takes; more is dropped.
    pub(super) buffer: Duration,
    /// Bytes of the longest datagram, headers included; longer ones vanish.
    pub(super) longest: u64,
}

/// See the module's head. Its threads end with the process.
pub(super) struct Line(Arc<AtomicU64>);

impl Line {
    /// Puts itself between a node and the one that it dials, by changing the node's configuration file.
    pub(super) fn between(below: &DemoNode, shape: Option<Shape>) -> Result<Self, Error> {
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
        let caller = Arc::new(Mutex::new(None));
        let (up, known) = (Arc::clone(&back), Arc::clone(&caller));
        // What is lost here is sent again.
        let mut pass = Way::begin(shape, Arc::clone(&bytes), move |datagram| drop(up.send(datagram)));
        let from = Arc::clone(&front);
        std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM];
            while let Ok((length, from)) = from.recv_from(&mut datagram) {
                *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                pass(&datagram[..length]);
            }
        });
        let mut pass = Way::begin(shape, Arc::clone(&bytes), move |datagram| {
            if let Some(to) = *caller.lock().unwrap_or_else(PoisonError::into_inner) {
                drop(front.send_to(datagram, to));
            }
        });
        std::thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM];
            // Refused while nobody listens there yet.
            loop {
                let Ok(length) = back.recv(&mut datagram) else { continue };
                pass(&datagram[..length]);
            }
        });
        Ok(Self(bytes))
    }

    /// What has entered it, both ways, headers included.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes a datagram at one end.
type Taker = Box<dyn FnMut(&[u8]) + Send>;

/// One direction.
struct Way;

impl Way {
    /// Gives out what takes a datagram; `send` gets it when it has come through.
    fn begin(shape: Option<Shape>, bytes: Arc<AtomicU64>, send: impl Fn(&[u8]) + Send + 'static) -> Taker {
        let Some(shape) = shape else {
            return Box::new(move |datagram| {
                bytes.fetch_add(datagram.len() as u64 + HEADERS, Ordering::Relaxed);
                send(datagram);
            });
        };
        let (queue, arrivals) = mpsc::sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        std::thread::spawn(move || {
            for (due, datagram) in arrivals {
                std::thread::sleep(due.saturating_duration_since(clock::instant()));
                send(&datagram);
            }
        });
        let mut free = clock::instant();
        Box::new(move |datagram| {
            let (length, now) = (datagram.len() as u64 + HEADERS, clock::instant());
            bytes.fetch_add(length, Ordering::Relaxed);
            free = free.max(now);
            if length > shape.longest || free - now > shape.buffer {
                return;
            }
            free += Duration::from_secs_f64(length as f64 * 8.0 / shape.rate as f64);
            // Only a process that ends has no sender any more.
            drop(queue.send((free + shape.delay, datagram.to_vec())));
        })
    }
}
