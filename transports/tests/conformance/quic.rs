//! QUIC over real loopback sockets: the suite, who is refused and why, and peers that break the protocol.

use crate::authority::{FAR_FUTURE, Ministry};
use crate::suite::{DEADLINE, End, Promises, Wire, conforms, deliver, frame};
use jincai_crypto::server_name;
use jincai_transports::{Error, Link, LinkEvent, QuicConfig, QuicEndpoint, Shape, Trouble};
use jincai_types::{AuthorityId, Fault, Priority, limits};
use quinn::crypto::rustls::QuicClientConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

fn province() -> AuthorityId {
    "370000000".parse().expect("id")
}

fn county() -> AuthorityId {
    "370502000".parse().expect("id")
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn county_config() -> QuicConfig {
    Ministry::new(1).node(county(), &[province()], 0, FAR_FUTURE)
}

fn province_config(listen: SocketAddr) -> QuicConfig {
    let config = Ministry::new(1).node(province(), &[county()], 0, FAR_FUTURE);
    QuicConfig { listen: Some(listen), ..config }
}

fn superior(listen: SocketAddr) -> End<QuicEndpoint> {
    let (sender, events) = mpsc::channel(16);
    let host = QuicEndpoint::bind(province_config(listen), sender).expect("a socket");
    End::new(host.accept(county()).expect("a free link"), events, host)
}

fn inferior(config: QuicConfig, address: SocketAddr) -> End<QuicEndpoint> {
    let (sender, events) = mpsc::channel(16);
    let host = QuicEndpoint::bind(config, sender).expect("a socket");
    let link = host.connect(province(), address.to_string()).expect("a free link");
    End::new(link, events, host)
}

struct Quic;

impl Wire for Quic {
    type Host = QuicEndpoint;

    fn promises(&self) -> Promises {
        // Queue and gathering, both windows of the stream, channel, and a frame in each hand.
        Promises { shape: Shape::Session, ordered: true, exact: true, most_held: 20 << 20 }
    }

    async fn pair(&self) -> (End<QuicEndpoint>, End<QuicEndpoint>) {
        let far = superior(loopback());
        let near = inferior(county_config(), far.host.local_addr().expect("bound"));
        (near, far)
    }

    async fn restart(&self, far: End<QuicEndpoint>) -> End<QuicEndpoint> {
        let address = far.host.local_addr().expect("bound");
        far.host.close().await;
        superior(address)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_conforms() {
    conforms(Quic).await;
}

/// What a caller with this configuration is told, while nobody hears of a link.
async fn refused(config: QuicConfig) -> Trouble {
    let mut far = superior(loopback());
    let address = far.host.local_addr().expect("bound");
    let mut near = inferior(config, address);
    let mut trouble = near.link.trouble();
    let told = timeout(DEADLINE, trouble.wait_for(Option::is_some)).await.expect("a reason in time");
    let told = told.expect("the link is held").clone().expect("some");
    near.host.close().await;
    assert!(near.events.recv().await.is_none(), "the caller was never up");
    // The right neighbour gets through meanwhile: the socket lives on, and the first event is its own.
    let mut right = inferior(county_config(), address);
    right.up().await;
    far.up().await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_do_not_fit_are_refused_with_a_reason() {
    let ministry = Ministry::new(1);
    let stranger: AuthorityId = "110000000".parse().expect("id");
    let cases = [
        ("names no neighbour", ministry.node(stranger, &[province()], 0, FAR_FUTURE)),
        ("expired", ministry.node(county(), &[province()], 0, 1_000_000_000)),
        ("not valid yet", ministry.node(county(), &[province()], FAR_FUTURE - 1000, FAR_FUTURE)),
    ];
    for (reason, config) in cases {
        let told = refused(config).await;
        assert!(told.text.contains(reason), "{told:?}");
        assert_eq!((told.code, told.fault), ("JC-1711", Fault::Operator), "{told:?}");
    }
    // Issued by somebody else, while it trusts the right root.
    let foreign = Ministry::new(2).node(county(), &[province()], 0, FAR_FUTURE);
    let told = refused(QuicConfig { root: ministry.root.clone(), ..foreign }).await;
    assert!(told.code == "JC-1711" && told.text.contains("certificate"), "{told:?}");
    // It trusts another root itself.
    let told = refused(QuicConfig { root: Ministry::new(2).root, ..county_config() }).await;
    assert!(told.code == "JC-1710" && told.text.contains("another root"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_under_another_name_is_refused() {
    let far = superior(loopback());
    let config = Ministry::new(1).node(county(), &[AuthorityId::MINISTRY], 0, FAR_FUTURE);
    let (sender, mut events) = mpsc::channel(16);
    let host = QuicEndpoint::bind(config, sender).expect("a socket");
    let address = far.host.local_addr().expect("bound").to_string();
    let link = host.connect(AuthorityId::MINISTRY, address).expect("a free link");
    let mut trouble = link.trouble();
    let told = timeout(DEADLINE, trouble.wait_for(Option::is_some)).await.expect("in time").expect("held").clone();
    let told = told.expect("some");
    assert!(told.code == "JC-1710" && told.text.contains("another name"), "{told:?}");
    host.close().await;
    assert!(events.recv().await.is_none());
}

/// A caller of our own making, for what the crate itself never does.
async fn stranger(address: SocketAddr, alpn: &[u8], identity: Option<QuicConfig>) -> Result<quinn::Connection, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(Ministry::new(1).root).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut tls = match identity {
        Some(config) => builder.with_client_auth_cert(config.chain, config.key).expect("an identity"),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tls = QuicClientConfig::try_from(tls).expect("a QUIC suite");
    // A connection's window that three full streams do not use up.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(quinn::VarInt::from_u32(2 << 20)).receive_window(quinn::VarInt::from_u32(8 << 20));
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::client(loopback()).expect("a socket");
    let name = server_name(province()).to_str().into_owned();
    let connecting = endpoint.connect_with(config, address, &name).expect("a call");
    connecting.await.map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_certificate_or_protocol_are_refused() {
    let mut far = superior(loopback());
    let address = far.host.local_addr().expect("bound");
    // TLS 1.3 lets the caller finish before it is judged; the judgement ends the connection.
    if let Ok(connection) = stranger(address, b"jincai/1", None).await {
        timeout(DEADLINE, connection.closed()).await.expect("it is closed");
    }
    assert!(stranger(address, b"h3", Some(county_config())).await.is_err());
    let mut right = inferior(county_config(), address);
    right.up().await;
    far.up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_and_oversized_frames_end_the_connection_and_are_never_delivered() {
    let mut far = superior(loopback());
    let address = far.host.local_addr().expect("bound");
    let oversized = (limits::FRAME_BYTES as u32 + 1).to_be_bytes().to_vec();
    let half = [&9u32.to_be_bytes()[..], b"half"].concat();
    for bytes in [oversized, half, vec![0, 0], vec![0, 0, 0, 0]] {
        let caller = stranger(address, b"jincai/1", Some(county_config())).await.expect("a connection");
        far.up().await;
        let mut stream = caller.open_uni().await.expect("a stream");
        stream.write_all(&bytes).await.expect("written");
        stream.finish().expect("finished");
        // `down` would let frames pass, so the very next event must be it.
        let event = timeout(DEADLINE, far.events.recv()).await.expect("in time");
        assert!(matches!(event, Some(LinkEvent::Down { .. })), "{event:?}");
        far.observe(event);
        timeout(DEADLINE, caller.closed()).await.expect("the connection is ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_replaces_one_that_may_be_half_open() {
    let mut far = superior(loopback());
    let address = far.host.local_addr().expect("bound");
    let older = stranger(address, b"jincai/1", Some(county_config())).await.expect("a connection");
    far.up().await;
    let mut right = inferior(county_config(), address);
    right.up().await;
    far.change().await;
    far.up().await;
    assert_eq!((far.ups, far.downs), (2, 1));
    timeout(DEADLINE, older.closed()).await.expect("the older one is ended");
    deliver(&mut right, &mut far, &[(Priority::Control, frame(1, 50))], true).await;
    while let Ok(event) = right.events.try_recv() {
        right.observe(Some(event));
    }
    assert_eq!((right.ups, right.downs), (1, 0), "the newer one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_held_once_by_a_neighbour_and_can_be_taken_again() {
    let mut far = superior(loopback());
    assert!(matches!(far.host.accept(county()), Err(Error::InUse { .. })));
    assert!(matches!(far.host.accept(AuthorityId::MINISTRY), Err(Error::NotANeighbour { .. })));
    let mut near = inferior(county_config(), far.host.local_addr().expect("bound"));
    near.up().await;
    far.up().await;
    let End { link, host, mut events, .. } = far;
    drop(link);
    near.down().await;
    while !matches!(timeout(DEADLINE, events.recv()).await.expect("in time"), Some(LinkEvent::Down { .. })) {}
    let link = again(&host).await;
    near.up().await;
    drop(link);
}

/// The driver ends just after its last event.
async fn again(host: &QuicEndpoint) -> Link {
    timeout(DEADLINE, async {
        loop {
            match host.accept(county()) {
                Ok(link) => return link,
                Err(Error::InUse { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .expect("free again")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_nowhere_is_told() {
    let (sender, _events) = mpsc::channel(16);
    let host = QuicEndpoint::bind(county_config(), sender).expect("a socket");
    let link = host.connect(province(), "no port".into()).expect("a free link");
    let mut trouble = link.trouble();
    let told = timeout(DEADLINE, trouble.wait_for(Option::is_some)).await.expect("in time").expect("held").clone();
    assert_eq!(told.map(|t| t.code), Some("JC-1709"));
    assert!(matches!(link.send(Priority::Control, frame(1, 10)).await, Err(Error::Down { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_that_nobody_reads_do_not_hold_up_control() {
    let mut far = superior(loopback());
    let caller = stranger(far.host.local_addr().expect("bound"), b"jincai/1", Some(county_config())).await;
    let caller = caller.expect("a connection");
    far.up().await;
    for class in [Priority::Bulk, Priority::Record, Priority::Interactive] {
        // As much as queue and windows take.
        let mut sent = 0;
        while timeout(Duration::from_millis(500), far.link.send(class, frame(sent, 256 << 10))).await.is_ok() {
            sent += 1;
        }
        assert!(sent > 16, "more than the queue went in");
    }
    let urgent = frame(9, 70);
    far.link.send(Priority::Control, urgent.clone()).await.expect("up");
    // The stream with the greeting is that of control.
    let mut control = timeout(DEADLINE, caller.accept_uni()).await.expect("in time").expect("a stream");
    let mut bytes = vec![0; 4 + 4 + urgent.len()];
    timeout(DEADLINE, control.read_exact(&mut bytes)).await.expect("it passes the others").expect("open");
    assert_eq!(bytes, [&[0; 4][..], &70u32.to_be_bytes(), &urgent].concat());
}
