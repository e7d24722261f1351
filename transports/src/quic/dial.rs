//! Keeps a connection to a neighbour that we dial, with growing random waits between attempts.

use super::refusal::explain;
use super::session::QuicSession;
use super::{HANDSHAKE, Shared};
use crate::Error;
use crate::backoff::{Backoff, STEADY};
use jincai_crypto::server_name;
use jincai_types::AuthorityId;
use quinn::{ClientConfig, Endpoint};
use std::net::SocketAddr;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Addresses of one name that are tried in turn.
const ADDRESSES: usize = 4;

/// Dials whenever there is no connection, until the driver of the neighbour has ended.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    client: &ClientConfig,
    shared: &Shared,
    address: &str,
    arrivals: &mpsc::Sender<QuicSession>,
) {
    let mut backoff = Backoff::new();
    loop {
        // A neighbour that has called us meanwhile need not be called.
        shared.down().await;
        match attempt(endpoint, client, shared.peer(), address).await {
            Ok(session) => {
                let connection = session.connection().clone();
                if arrivals.send(session).await.is_err() {
                    return;
                }
                tokio::select! {
                    _ = connection.closed() => {}
                    () = sleep(STEADY) => {
                        backoff.reset();
                        connection.closed().await;
                    }
                }
            }
            Err(error) => shared.note(&error),
        }
        sleep(backoff.next()).await;
    }
}

/// One attempt at each of the addresses that the name has now; the last error if none answers as the neighbour.
async fn attempt(
    endpoint: &Endpoint,
    client: &ClientConfig,
    peer: AuthorityId,
    address: &str,
) -> Result<QuicSession, Error> {
    let unresolved = |source| Error::Resolve { address: address.to_owned(), source };
    let ours = endpoint.local_addr().map_err(unresolved)?;
    let found = timeout(HANDSHAKE, tokio::net::lookup_host(address))
        .await
        .map_err(|elapsed| unresolved(elapsed.into()))?
        .map_err(unresolved)?;
    let mut last = unresolved(std::io::Error::other("no address of a family that our socket can reach"));
    for remote in found.filter(|a| a.is_ipv4() || ours.is_ipv6()).take(ADDRESSES) {
        match timeout(HANDSHAKE, call(endpoint, client, peer, remote)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = Error::Lost { reason: format!("{remote} does not answer") },
        }
    }
    Err(last)
}

async fn call(
    endpoint: &Endpoint,
    client: &ClientConfig,
    peer: AuthorityId,
    remote: SocketAddr,
) -> Result<QuicSession, Error> {
    let connecting = endpoint
        .connect_with(client.clone(), remote, &server_name(peer).to_str())
        .map_err(|e| Error::Lost { reason: e.to_string() })?;
    let connection = connecting.await.map_err(|e| explain(&e))?;
    QuicSession::await_greeting(connection).await
}
