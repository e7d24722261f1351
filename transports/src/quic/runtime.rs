//! tokio as quinn's runtime, with an eye on when its tasks have ended: only then is the UDP socket free again.

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Hands a guard to each task.
#[derive(Debug)]
pub(crate) struct Watched(mpsc::Sender<()>);

impl Watched {
    /// The runtime, and a channel that ends with the last of its tasks.
    pub(crate) fn new() -> (Self, mpsc::Receiver<()>) {
        let (guard, ended) = mpsc::channel(1);
        (Self(guard), ended)
    }
}

impl Runtime for Watched {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let guard = self.0.clone();
        TokioRuntime.spawn(Box::pin(async move {
            task.await;
            drop(guard);
        }));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}
