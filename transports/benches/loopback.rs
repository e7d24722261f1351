//! How fast frames go over QUIC between two endpoints of one process: small control frames and large bulk frames.
//!
//! Run with `cargo bench -p jincai-transports`. Both ends share the machine, so two real nodes do better.

#[path = "../tests/conformance/authority.rs"]
mod authority;

use authority::{FAR_FUTURE, Ministry};
use bytes::Bytes;
use jincai_transports::{Link, LinkEvent, QuicConfig, QuicEndpoint};
use jincai_types::{AuthorityId, Priority};
use std::net::Ipv4Addr;
use std::time::Instant;
use tokio::sync::mpsc;

/// Sends frames and waits until the other end has them all; returns the seconds it took.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn measure(
    link: &Link,
    arrivals: &mut mpsc::Receiver<LinkEvent>,
    class: Priority,
    size: usize,
    count: usize,
) -> f64 {
    let start = Instant::now();
    let frame = Bytes::from(vec![7; size]);
    let send = async {
        for _ in 0..count {
            link.send(class, frame.clone()).await.expect("the link stays up");
        }
    };
    let receive = async {
        let mut arrived = 0;
        while arrived < count {
            match arrivals.recv().await.expect("the endpoint lives") {
                LinkEvent::Frame { bytes, .. } => arrived += usize::from(bytes.len() == size),
                LinkEvent::Up { .. } => {}
                LinkEvent::Down { reason, .. } => panic!("{reason}"),
            }
        }
    };
    tokio::join!(send, receive);
    start.elapsed().as_secs_f64()
}

#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
#[tokio::main]
async fn main() {
    let ministry = Ministry::new(1);
    let [province, county]: [AuthorityId; 2] = ["370000000", "370502000"].map(|text| text.parse().expect("an id"));
    let listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    let (sender, mut arrivals) = mpsc::channel(256);
    let far = ministry.node(province, &[county], 0, FAR_FUTURE);
    let far = QuicEndpoint::bind(QuicConfig { listen, ..far }, sender).expect("a socket");
    let _accepted = far.accept(county).expect("a free link");
    let (sender, mut events) = mpsc::channel(256);
    let near = QuicEndpoint::bind(ministry.node(county, &[province], 0, FAR_FUTURE), sender).expect("a socket");
    let link = near.connect(province, far.local_addr().expect("bound").to_string()).expect("a free link");
    assert!(matches!(events.recv().await, Some(LinkEvent::Up { .. })));

    measure(&link, &mut arrivals, Priority::Record, 64 << 10, 2000).await;
    for _ in 0..3 {
        let count = 200_000;
        let seconds = measure(&link, &mut arrivals, Priority::Control, 1024, count).await;
        println!("1 KiB control frames: {:.0} frames/s", f64::from(count as u32) / seconds);
    }
    for _ in 0..3 {
        let (size, count) = (256 << 10, 4000);
        let seconds = measure(&link, &mut arrivals, Priority::Bulk, size, count).await;
        println!("256 KiB bulk frames: {:.0} MB/s", f64::from((size * count) as u32) / seconds / 1e6);
    }
    near.close().await;
    far.close().await;
}
