//! QUIC sessions: one UDP socket a node, one connection a neighbour, one stream a priority class and direction.
//!
//! The inferior dials, the superior accepts; either end may do both. The accepting end greets with an empty frame on its
//! control stream once it knows who called: in TLS 1.3 the caller's handshake ends before its certificate is judged, and
//! a link that was never accepted must not be reported up. Streams are written and
//! read by tasks of their own, so that a full class does not hold up another on the way to the events' channel. A stream a
//! message would be five times slower, and windows above 16 MiB make quinn give up on gaps.

mod congestion;
mod dial;
mod refusal;
mod runtime;
mod session;

use crate::link::Shared;
use crate::session::keep;
use crate::tls::Credentials;
use crate::{Error, Events, Link};
use congestion::Paths;
use dial::dial;
use jincai_crypto::peer_authority;
use jincai_types::AuthorityId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, Incoming, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use refusal::{Close, explain};
use ring::hmac;
use runtime::Watched;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use session::QuicSession;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

/// A connection is dead after so many keep-alives without an answer.
const PATIENCE: u32 = 3;
/// The accepting end waits for longer than any caller: of the two idle times the shorter one counts.
const ACCEPTED_IDLE: Duration = Duration::from_secs(3_600);
/// Longest time from the first packet to the greeting.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest time for everything to end in [`QuicEndpoint::close`].
const CLOSING: Duration = Duration::from_secs(4);
/// Handshakes under way at once; more callers are turned away and come again.
const HANDSHAKES: usize = 256;
/// Largest UDP payload that is tried. What a path carries is found out by probing; on Ethernet it is 1,452 bytes, with jumbo
/// frames and within a machine it is this. Ten of them, which quinn hands to the system at once, must stay below 64 KiB.
const DATAGRAM_BYTES: u16 = 6_500;
/// Bytes that the peer may send ahead on one class's stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes that the peer may send ahead on all streams, and that we keep until the peer has acknowledged them.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes that may wait in the kernel on their way out and in.
const SOCKET_BYTES: usize = 4 << 20;

/// What a node needs for QUIC.
#[derive(Debug)]
pub struct QuicConfig {
    /// The UDP address to listen on; without one the node only dials.
    pub listen: Option<SocketAddr>,
    /// The node's certificate, then the intermediate ones up to the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the node's certificate.
    pub key: PrivateKeyDer<'static>,
    /// The root that every neighbour's certificate must lead to.
    pub root: CertificateDer<'static>,
    /// Who may connect; a certificate of anybody else is refused.
    pub neighbours: Vec<AuthorityId>,
    /// On connections that we dial, sent when nothing else is, so that addresses stay known on the way and a dead peer is
    /// noticed after three of them; 1 to 600 seconds.
    pub keep_alive: Duration,
    /// The same at every start, and nobody else's: a peer that still uses a connection which this end has lost with its
    /// process is told so with the first packet it sends (stateless reset, RFC 9000 section 10.3).
    pub secret: [u8; 32],
}

/// The driver of one neighbour as the socket sees it.
struct Slot {
    shared: Arc<Shared>,
    arrivals: mpsc::Sender<QuicSession>,
}

struct Inner {
    endpoint: Endpoint,
    client: quinn::ClientConfig,
    neighbours: Vec<AuthorityId>,
    /// Neighbours whose link somebody holds, or held.
    slots: Mutex<BTreeMap<AuthorityId, Slot>>,
    closing: watch::Sender<bool>,
    events: Events,
}

/// A node's UDP socket and the connections over it. Dropping it closes all links, as [`Self::close`] does, unwatched.
pub struct QuicEndpoint {
    inner: Arc<Inner>,
    /// Held by the tasks of every link; gone when the last one has ended.
    alive: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
    /// Ends when quinn has let go of the socket.
    freed: Option<mpsc::Receiver<()>>,
}

impl QuicEndpoint {
    /// Opens the socket on the current tokio runtime. Connections are taken for those links that [`Self::connect`] or
    /// [`Self::accept`] gave out.
    pub fn bind(config: QuicConfig, events: Events) -> Result<Self, Error> {
        let QuicConfig { listen, chain, key, root, neighbours, keep_alive, secret } = config;
        let credentials = Credentials { chain, key, root };
        let client = client_config(&credentials, keep_alive)?;
        let server = listen.is_some().then(|| server_config(&credentials)).transpose()?;
        let (socket, address) = open_socket(listen)?;
        let (runtime, freed) = Watched::new();
        let endpoint = Endpoint::new(endpoint_config(&secret), server, socket, Arc::new(runtime))
            .map_err(|source| Error::Bind { address, source })?;
        let inner = Arc::new(Inner {
            endpoint,
            client,
            neighbours,
            slots: Mutex::default(),
            closing: watch::Sender::new(false),
            events,
        });
        let (alive, ended) = mpsc::channel(1);
        tokio::spawn(receive(Arc::clone(&inner)));
        Ok(Self { inner, alive: Some(alive), ended, freed: Some(freed) })
    }

    /// The address that the socket is bound to.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.inner.endpoint.local_addr().map_err(|source| Error::Bind { address: unknown, source })
    }

    /// Keeps a connection to a neighbour at `host:port` (resolved at each attempt) for as long as the link is held.
    pub fn connect(&self, peer: AuthorityId, address: String) -> Result<Link, Error> {
        let (shared, arrivals) = self.claim(peer)?;
        let (inner, link) = (Arc::clone(&self.inner), Link::new(Arc::clone(&shared)));
        let alive = self.alive.clone();
        tokio::spawn(async move {
            let _alive = alive;
            tokio::select! {
                () = shared.stopped() => {}
                () = dial(&inner.endpoint, &inner.client, &shared, &address, &arrivals) => {}
            }
        });
        Ok(link)
    }

    /// The link of a neighbour that dials us. Until somebody holds it, that neighbour is turned away.
    pub fn accept(&self, peer: AuthorityId) -> Result<Link, Error> {
        let (shared, _arrivals) = self.claim(peer)?;
        Ok(Link::new(shared))
    }

    /// Starts the driver of a neighbour that has none.
    fn claim(&self, peer: AuthorityId) -> Result<(Arc<Shared>, mpsc::Sender<QuicSession>), Error> {
        if !self.inner.neighbours.contains(&peer) {
            return Err(Error::NotANeighbour { peer });
        }
        let mut slots = self.inner.slots();
        if slots.get(&peer).is_some_and(|slot| !slot.arrivals.is_closed()) {
            return Err(Error::InUse { peer });
        }
        let shared = Shared::new(peer);
        let (arrivals, arriving) = mpsc::channel(1);
        slots.insert(peer, Slot { shared: Arc::clone(&shared), arrivals: arrivals.clone() });
        let (alive, driver) = (self.alive.clone(), keep(Arc::clone(&shared), arriving, self.inner.events.clone()));
        tokio::spawn(async move {
            let _alive = alive;
            driver.await;
        });
        Ok((shared, arrivals))
    }

    /// Sends what is queued, for at most two seconds, closes all connections and frees the socket.
    pub async fn close(mut self) {
        self.inner.stop();
        self.alive = None;
        // A driver that waits for room in a full channel of events ends with the channel; it is not waited for.
        if timeout(CLOSING, self.ended.recv()).await.is_err() {
            tracing::warn!("a link did not end in time, because nobody reads its events");
        }
        self.inner.endpoint.close(Close::Bye.code(), b"this node stops");
        let freed = self.freed.take();
        drop(self);
        if let Some(mut freed) = freed
            && timeout(CLOSING, freed.recv()).await.is_err()
        {
            tracing::warn!("the UDP socket was not free in time");
        }
    }
}

impl Drop for QuicEndpoint {
    fn drop(&mut self) {
        self.inner.stop();
    }
}

impl Inner {
    /// The guarded sections only move values, so a poisoned lock still guards a sound state.
    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<AuthorityId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.closing.send_replace(true);
        self.slots().values().for_each(|slot| slot.shared.stop());
    }
}

/// Takes incoming connections until the endpoint closes.
async fn receive(inner: Arc<Inner>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut closing = inner.closing.subscribe();
    loop {
        let incoming = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            incoming = inner.endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
        };
        // An address that nobody has shown to be his own costs one small answer, no signature and no memory.
        if !incoming.remote_address_validated() && incoming.may_retry() {
            if incoming.retry().is_err() {
                tracing::debug!("an incoming connection could not be asked to prove its address");
            }
            continue;
        }
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let _permit = permit;
            let address = incoming.remote_address();
            let greeted = timeout(HANDSHAKE, welcome(&inner, incoming)).await;
            let late = || Err(Error::Lost { reason: "the handshake took too long".into() });
            if let Err(error) = greeted.unwrap_or_else(|_elapsed| late()) {
                let text = error.sentence();
                tracing::warn!(%address, code = error.code(), error = text, "an incoming connection is refused");
            }
        });
    }
}

/// Finds out who calls and hands the connection to the neighbour's driver.
async fn welcome(inner: &Inner, incoming: Incoming) -> Result<(), Error> {
    let connecting = incoming.accept().map_err(|e| explain(&e))?;
    let connection = connecting.await.map_err(|e| explain(&e))?;
    let refuse = |why: Close, error: Error| {
        connection.close(why.code(), error.to_string().as_bytes());
        Err(error)
    };
    let identity = connection.peer_identity().and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = identity.as_ref().and_then(|chain| chain.first()) else {
        return refuse(Close::Refused, Error::PeerRefused { reason: "it shows no certificate".into() });
    };
    let peer = match peer_authority(certificate, inner.neighbours.iter().copied()) {
        Ok(peer) => peer,
        Err(error) => return refuse(Close::Refused, Error::PeerRefused { reason: error.to_string() }),
    };
    let arrivals = inner.slots().get(&peer).map(|slot| slot.arrivals.clone());
    let Some(arrivals) = arrivals.filter(|a| !a.is_closed()) else {
        return refuse(Close::Refused, Error::PeerRefused { reason: format!("no link to {peer} is open here") });
    };
    let session = QuicSession::greet(connection.clone()).await?;
    match arrivals.try_send(session) {
        Ok(()) => Ok(()),
        // One caller that connects faster than its connections can be taken must not use up the handshakes.
        Err(_) => refuse(Close::Busy, Error::Lost { reason: format!("{peer} connects too often") }),
    }
}

fn open_socket(listen: Option<SocketAddr>) -> Result<(UdpSocket, SocketAddr), Error> {
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let address = listen.unwrap_or(any_v4);
    let socket = match listen {
        Some(address) => UdpSocket::bind(address),
        // A machine without IPv6 still dials over IPv4.
        None => UdpSocket::bind(any_v6).or_else(|_no_ipv6| UdpSocket::bind(any_v4)),
    };
    let socket = socket.map_err(|source| Error::Bind { address, source })?;
    widen(&socket);
    Ok((socket, address))
}

/// Asks for room in the kernel for what arrives while nobody reads: its default of some 200 KiB is used up by two packets of
/// 64 KiB, and what finds no room is lost and sent again. The system grants at most `net.core.rmem_max`.
fn widen(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let widened = socket.set_recv_buffer_size(SOCKET_BYTES).and_then(|()| socket.set_send_buffer_size(SOCKET_BYTES));
    if let Err(error) = widened {
        tracing::debug!(%error, "the socket keeps its buffers");
    }
}

/// What a node needs to recognise connections of an earlier run of its own.
fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut first = [0; 8];
    first.copy_from_slice(&hmac::sign(&key, b"connection ids").as_ref()[..8]);
    let ids = u64::from_be_bytes(first);
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    // After a restart thousands may have to be told.
    config.min_reset_interval(Duration::from_millis(1));
    config.max_udp_payload_size(DATAGRAM_BYTES).expect("within QUIC's 1,200 to 65,527 bytes");
    config
}

fn transport(keep_alive: Option<Duration>) -> Arc<TransportConfig> {
    let idle = keep_alive.map_or(ACCEPTED_IDLE, |pause| pause.min(ACCEPTED_IDLE / PATIENCE) * PATIENCE);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(4))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(keep_alive)
        .max_idle_timeout(Some(idle.try_into().expect("an hour at most is a valid idle time")))
        // CUBIC takes 1 % loss for a full line: at 100 ms it carries 2 Mbit/s (tests/peers/wan.sh).
        .congestion_controller_factory(Arc::new(Paths));
    Arc::new(transport)
}

fn client_config(credentials: &Credentials, keep_alive: Duration) -> Result<quinn::ClientConfig, Error> {
    let tls = QuicClientConfig::try_from(credentials.client()?)
        .map_err(|e| Error::Identity(rustls::Error::General(e.to_string())))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport(Some(keep_alive)));
    Ok(config)
}

fn server_config(credentials: &Credentials) -> Result<quinn::ServerConfig, Error> {
    let tls = QuicServerConfig::try_from(credentials.server()?)
        .map_err(|e| Error::Identity(rustls::Error::General(e.to_string())))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport(None)).max_incoming(HANDSHAKES);
    Ok(config)
}
