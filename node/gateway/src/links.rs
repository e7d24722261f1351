//! Between the core's thread and the transports: what the core sends is queued per neighbour and class, batches are read
//! from the journal only when their turn comes, and what arrives goes into the core's queue, which is back-pressure.

use crate::config::{Config, Transport};
use crate::enrol::Enrolment;
use crate::error::Error;
use crate::input::Input;
use bytes::Bytes;
use jincai_core::Event;
use jincai_crypto::{TlsIdentity, sha256};
use jincai_exchange::{Frame, LinkKind, Payload, Send, read_batch};
use jincai_journal::Reader;
use jincai_transports::{DropConfig, Link, LinkEvent, QuicConfig, QuicEndpoint, Shape, WireBytes, open_drop};
use jincai_types::{AuthorityId, Priority};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Sends that may wait per neighbour and class: small things, batches being only named. The exchange's windows bound what
/// it hands over; whatever is dropped beyond this is sent again after its retry time.
const WAITING: usize = 8192;
/// Events that may wait between transports and core.
const EVENTS: usize = 256;
/// Files that may wait in a drop directory for whoever fetches them.
const MOST_WAITING: usize = 4096;
/// How often a drop directory is looked at.
const POLL: Duration = Duration::from_millis(500);

/// The core's side: one queue per neighbour and class.
pub(crate) struct Links(BTreeMap<AuthorityId, [mpsc::Sender<Payload>; 4]>);

/// The transports' side, kept to be closed in order.
pub(crate) struct Transports {
    quic: Option<QuicEndpoint>,
    links: Vec<Arc<Link>>,
}

impl Links {
    /// No links at all.
    pub(crate) fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Opens the transports of a configuration.
    pub(crate) async fn start(
        config: &Config,
        enrolment: &Enrolment,
        tls: TlsIdentity,
        log: Reader,
        inputs: mpsc::Sender<Input>,
    ) -> Result<(Transports, Self), Error> {
        let (events, arrivals) = mpsc::channel(EVENTS);
        let of_quic = config.link.iter().filter(|l| l.transport == Transport::Quic).map(|l| l.peer);
        let quic = match &config.quic {
            None => None,
            Some(quic) => {
                let secret = sha256(&[&b"jincai/quic-reset/1\0"[..], tls.key.secret_pkcs8_der()].concat());
                let settings = QuicConfig {
                    keep_alive: Duration::from_secs(quic.keep_alive_seconds),
                    secret: secret.0,
                    listen: Some(quic.listen),
                    chain: enrolment.certificates(),
                    key: tls.key.into(),
                    root: enrolment.root(),
                    neighbours: of_quic.collect(),
                };
                Some(QuicEndpoint::bind(settings, events.clone())?)
            }
        };
        let mut queues = BTreeMap::new();
        let mut links = Vec::new();
        for link in &config.link {
            let peer = link.peer;
            let handle = match (link.transport, &quic, &link.address) {
                (Transport::Quic, Some(quic), Some(address)) => quic.connect(peer, address.clone())?,
                (Transport::Quic, Some(quic), None) => quic.accept(peer)?,
                _ => {
                    let missing = || Error::Check(format!("link {peer} lacks its directories"));
                    let outgoing = link.outgoing.clone().ok_or_else(missing)?;
                    let incoming = link.incoming.clone().ok_or_else(missing)?;
                    open_drop(
                        DropConfig { peer, outgoing, incoming, poll: POLL, most_waiting: MOST_WAITING },
                        events.clone(),
                    )?
                }
            };
            let handle = Arc::new(handle);
            let senders = Priority::ALL.map(|class| {
                let (sender, queue) = mpsc::channel(WAITING);
                tokio::spawn(pump(class, queue, Arc::clone(&handle), log.clone()));
                sender
            });
            queues.insert(peer, senders);
            links.push(handle);
        }
        drop(events);
        tokio::spawn(hand_over(arrivals, inputs));
        Ok((Transports { quic, links }, Self(queues)))
    }

    /// Queues something; never waits. What finds its queue full is lost, and sent again by the exchange.
    pub(crate) fn send(&self, send: Send) {
        let Some(queues) = self.0.get(&send.peer) else { return };
        if queues[send.class.index()].try_send(send.what).is_err() {
            tracing::debug!(peer = %send.peer, class = send.class.name(), "a send queue is full");
        }
    }
}

impl Transports {
    /// No transports at all.
    pub(crate) fn none() -> Self {
        Self { quic: None, links: Vec::new() }
    }

    /// Bytes that the present connections have moved.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        self.links.iter().filter_map(|link| link.wire_bytes()).fold(WireBytes::default(), |sum, one| WireBytes {
            sent: sum.sent + one.sent,
            received: sum.received + one.received,
        })
    }

    /// Lets go of the links and closes the endpoint.
    pub(crate) async fn close(mut self) {
        self.links.clear();
        if let Some(quic) = self.quic.take() {
            quic.close().await;
        }
    }
}

async fn pump(class: Priority, mut queue: mpsc::Receiver<Payload>, link: Arc<Link>, log: Reader) {
    while let Some(payload) = queue.recv().await {
        let frame = match payload {
            Payload::Frame(bytes) => Bytes::from(bytes),
            // Read from the journal's cache or the page cache: not worth a thread of its own.
            Payload::Batch { record, hop, .. } => match read_batch(&log, record) {
                Ok(batch) => Bytes::from(Frame::batch_bytes(&hop, &batch)),
                Err(error) => {
                    tracing::error!(code = error.code(), %error, record, "a batch in custody cannot be read");
                    continue;
                }
            },
        };
        // A link that went down drops what was queued; the exchange starts over when it comes up.
        if let Err(error) = link.send(class, frame).await {
            tracing::debug!(peer = %link.peer(), %error, "a frame was not sent");
        }
    }
}

async fn hand_over(mut arrivals: mpsc::Receiver<LinkEvent>, inputs: mpsc::Sender<Input>) {
    while let Some(event) = arrivals.recv().await {
        let event = match event {
            LinkEvent::Up { peer, kind } => {
                tracing::info!(%peer, "link up");
                let kind = if kind == Shape::Session { LinkKind::Session } else { LinkKind::Mailbox };
                Event::LinkUp(peer, kind)
            }
            LinkEvent::Down { peer, reason } => {
                tracing::warn!(%peer, reason, "link down");
                Event::LinkDown(peer)
            }
            LinkEvent::Frame { peer, bytes } => Event::Frame(peer, bytes),
        };
        if inputs.send(Input::Event(event)).await.is_err() {
            return;
        }
    }
}
