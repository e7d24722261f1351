//! Backups and the end of a restore over HTTP.

use crate::{Node, Problem};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use tokio::sync::mpsc;

/// Pieces of a backup that wait for a slow reader, and their size in bytes.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 256 << 10;

/// Streams a backup. One that fails on its way ends without its manifest, so that nobody takes it for a whole one.
/// Of a damaged journal there is none: it would lack what was acknowledged, and look whole.
pub(crate) async fn backup(State(node): State<Node>) -> Result<Response, Problem> {
    node.call(|core, _, _| core.check_whole()).await??;
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        let written = (node.backup())(&mut out).and_then(|()| out.flush().map_err(|e| e.to_string()));
        if let Err(reason) = written {
            // A reader that has gone away is told nothing.
            drop(sender.blocking_send(Err(io::Error::other(reason))));
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece: Option<io::Result<Bytes>> = receiver.recv().await;
        piece.map(|piece| (piece, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(pieces)).into_response())
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decides that a restored node has caught up, although a neighbour that may know more has not answered.
pub(crate) async fn accept(State(node): State<Node>) -> Result<Json<Value>, Problem> {
    let was = node
        .call(|core, now, log| {
            let was = core.exchange().is_catching_up();
            core.stop_catching_up(now, log).map(|()| was)
        })
        .await??;
    Ok(Json(json!({ "was_catching_up": was, "catching_up": false })))
}
