//! Files over HTTP: what is sent goes from the request's body into the store, piece by piece; what has come is read from there.

use crate::{Node, Problem};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use jincai_core::Core;
use jincai_exchange::Obstacle;
use jincai_files::{Content, Error, FileKey, ReceiveState, Receiving, SendState, Sending, Submission, Taken};
use jincai_types::{AuthorityId, Destination, Digest, Millis, Priority};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use tokio::sync::mpsc;

/// Pieces of a body that wait for the disk, or of a file that wait for a slow reader; and the size of the latter.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 256 << 10;
/// Files of a list, at most.
const LISTED: usize = 1_000;

type Answer = Result<Json<Value>, Problem>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendQuery {
    to: String,
    name: String,
    #[serde(default)]
    id: Option<String>,
}

/// Takes a file in and offers it; answers when both are durable.
pub(crate) async fn send(
    State(node): State<Node>,
    Query(query): Query<SendQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let to: AuthorityId = query.to.parse()?;
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let media = text(header::CONTENT_TYPE).unwrap_or_default().to_owned();
    let id = query.id.map_or_else(|| node.new_id(), Ok)?;
    // What cannot be sent anyway is told before a long body is taken.
    node.call(move |core, _, _| core.check_file_destination(to)).await??;
    let taken = take_in(&node, body).await?;
    let Taken { tree, hold } = taken;
    let (root, size) = (tree.root, tree.size);
    let submission = Submission { to, id: id.clone(), name: query.name, media, tree };
    let new = node.call(move |core, now, log| core.submit_file(now, log, submission)).await??;
    // The room needs the file from now on, durably.
    drop(hold);
    let from = node.call(|core, _, _| core.exchange().authority()).await?;
    let answer = json!({ "id": id, "from": from, "to": to, "size": size, "root": root.to_string(), "new": new, "durable": true });
    Ok((if new { StatusCode::ACCEPTED } else { StatusCode::OK }, Json(answer)).into_response())
}

/// Writes a body into the store.
async fn take_in(node: &Node, body: Body) -> Result<Taken, Problem> {
    let (pieces, mut queue) = mpsc::channel::<Bytes>(PIECES);
    let depot = node.depot().clone();
    let writing = tokio::task::spawn_blocking(move || -> Result<(_, bool), Error> {
        let (mut upload, mut whole) = (depot.upload()?, false);
        while let Some(piece) = queue.blocking_recv() {
            // An empty piece says that the body has come to its end: a caller that went away sends none.
            whole = piece.is_empty();
            upload.write(&piece)?;
        }
        Ok((upload, whole))
    });
    let mut stream = body.into_data_stream();
    let mut broken = None;
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) if piece.is_empty() => {}
            Ok(piece) => {
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            Err(error) => broken = Some(error.to_string()),
        }
    }
    if broken.is_none() {
        // A closed queue means that writing has failed, which is told below.
        drop(pieces.send(Bytes::new()).await);
    }
    drop(pieces);
    let (upload, whole) = writing.await.map_err(|_| Problem::stopping())??;
    if let Some(reason) = broken.filter(|_| !whole) {
        return Err(Problem::bad_request(format!("the body did not come to its end: {reason}")));
    }
    let finished = tokio::task::spawn_blocking(move || upload.finish()).await;
    Ok(finished.map_err(|_| Problem::stopping())??)
}

fn send_state(state: &SendState) -> (&'static str, Option<(&str, &str)>) {
    match state {
        SendState::Offered => ("offered", None),
        SendState::Sending => ("sending", None),
        SendState::Received => ("delivered", None),
        SendState::Ended(code, reason) => ("failed", Some((code, reason))),
    }
}

fn receive_state(state: &ReceiveState) -> (&'static str, Option<(&str, &str)>) {
    match state {
        ReceiveState::Offered => ("waiting", None),
        ReceiveState::Receiving => ("receiving", None),
        ReceiveState::Whole => ("whole", None),
        ReceiveState::Ended(code, reason) => ("failed", Some((code, reason))),
    }
}

/// Why a transfer waits: for something here, or because of a hop on its way.
fn show_waits(core: &Core, key: &FileKey, sending: Option<&Sending>) -> Value {
    if let Some(error) = core.rooms().files.waits(key) {
        return json!({ "code": error.code(), "text": error.to_string() });
    }
    let Some(sending) = sending.filter(|sending| !sending.is_over()) else { return Value::Null };
    let admitted = core.exchange().admit(Destination::Authority(sending.to), Priority::Bulk);
    if let Err(error) = admitted {
        return json!({ "code": error.code(), "text": error.to_string() });
    }
    let links = core.exchange().links();
    let waits = links.iter().flat_map(|link| &link.waits).find(|waits| waits.held.hop == sending.to);
    // Others' bulk may wait for the same hop; whoever is full or away keeps this one waiting, too.
    let waits = waits.filter(|waits| waits.held.class == Priority::Bulk && waits.held.why != Obstacle::Share);
    waits.map_or(Value::Null, |waits| json!({ "code": "JC-1226", "text": waits.to_string() }))
}

fn show_sending(core: &Core, now: Millis, (key, sending): (&FileKey, &Sending)) -> Value {
    let offer = &sending.offer;
    let (state, ended) = send_state(&sending.state);
    let sent = sending.sent_chunks.saturating_mul(jincai_files::tree::CHUNK_BYTES).min(offer.size);
    let done = if sending.state == SendState::Received { offer.size } else { sent };
    json!({
        "id": key.id, "direction": "out", "from": key.origin, "to": sending.to, "name": offer.name, "media": offer.media,
        "size": offer.size, "root": offer.root.to_string(), "state": state, "bytes": done, "bytes_sent": sent,
        "rate": core.rooms().files.rate(key, now), "time": sending.submitted, "ended": over(sending.ended),
        "code": ended.map(|(code, _)| code), "reason": ended.map(|(_, reason)| reason),
        "waits": show_waits(core, key, Some(sending)),
    })
}

fn show_receiving(core: &Core, now: Millis, (key, coming): (&FileKey, &Receiving)) -> Value {
    let offer = &coming.offer;
    let (state, ended) = receive_state(&coming.state);
    json!({
        "id": key.id, "direction": "in", "from": key.origin, "to": core.exchange().authority(), "name": offer.name,
        "media": offer.media, "size": offer.size, "root": offer.root.to_string(), "state": state,
        "bytes": coming.stored_bytes(), "bytes_known": coming.known_chunks.saturating_mul(jincai_files::tree::CHUNK_BYTES),
        "rate": core.rooms().files.rate(key, now), "time": coming.offered, "ended": over(coming.ended),
        "code": ended.map(|(code, _)| code), "reason": ended.map(|(_, reason)| reason),
        "waits": show_waits(core, key, None),
    })
}

fn over(time: Millis) -> Option<Millis> {
    (time > 0).then_some(time)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    #[serde(default)]
    direction: Option<String>,
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Files in the order of direction, origin and id; `after` is the last one of the page before.
pub(crate) async fn list(State(node): State<Node>, Query(query): Query<ListQuery>) -> Answer {
    let limit = query.limit.unwrap_or(100).clamp(1, LISTED);
    let peer: Option<AuthorityId> = query.peer.as_deref().map(str::parse).transpose()?;
    let names = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let (files, next) = node
        .call(move |core, now, _| {
            let rooms = &core.rooms().files;
            let after = query.after.clone().unwrap_or_default();
            let mark = |direction: &str, key: &FileKey| format!("{direction}/{key}");
            let coming = rooms.receiving().filter(|(key, coming)| {
                let (state, from) = (receive_state(&coming.state).0, peer.is_none_or(|peer| peer == key.origin));
                names(&query.direction, "in") && names(&query.state, state) && from
            });
            let going = rooms.sending().filter(|(_, sending)| {
                let (state, to) = (send_state(&sending.state).0, peer.is_none_or(|peer| peer == sending.to));
                names(&query.direction, "out") && names(&query.state, state) && to
            });
            let coming = coming.map(|(key, coming)| (mark("in", key), Ok((key, coming))));
            let going = going.map(|(key, sending)| (mark("out", key), Err((key, sending))));
            let mut all = coming.chain(going).filter(|(mark, _)| *mark > after);
            let page: Vec<_> = all.by_ref().take(limit).collect();
            let next = all.next().and_then(|_| page.last().map(|(mark, _)| mark.clone()));
            let show = |(_, file)| match file {
                Ok(coming) => show_receiving(core, now, coming),
                Err(going) => show_sending(core, now, going),
            };
            (page.into_iter().map(show).collect::<Vec<_>>(), next)
        })
        .await?;
    let usage = node.depot().usage();
    let store = json!({ "used": usage.used, "limit": usage.limit, "files": usage.files, "parts": usage.parts });
    Ok(Json(json!({ "files": files, "next": next, "store": store })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FromQuery {
    #[serde(default)]
    from: Option<String>,
}

/// The transfer that an id means: one from here, or the only one that comes under it, unless its origin is named.
fn find(core: &Core, id: &str, from: Option<AuthorityId>) -> Result<FileKey, Error> {
    let files = &core.rooms().files;
    if let Some(origin) = from {
        let key = FileKey { origin, id: id.to_owned() };
        let known = files.coming(&key).is_some() || (origin == core.exchange().authority() && files.sent(id).is_some());
        return if known { Ok(key) } else { Err(Error::NoFile { id: id.to_owned() }) };
    }
    if let Some((key, _)) = files.sent(id) {
        return Ok(key.clone());
    }
    let mut coming = files.receiving().filter(|(key, _)| key.id == id).map(|(key, _)| key);
    match (coming.next(), coming.next()) {
        (Some(key), None) => Ok(key.clone()),
        (None, _) => Err(Error::NoFile { id: id.to_owned() }),
        (Some(_), Some(_)) => Err(Error::Unusable {
            reason: format!("files with the id «{id}» come from several: name one with «from»"),
        }),
    }
}

fn origin(query: &FromQuery) -> Result<Option<AuthorityId>, Problem> {
    Ok(query.from.as_deref().map(str::parse).transpose()?)
}

pub(crate) async fn show(State(node): State<Node>, Path(id): Path<String>, Query(query): Query<FromQuery>) -> Answer {
    let from = origin(&query)?;
    let shown = node
        .call(move |core, now, _| -> Result<Value, Error> {
            let key = find(core, &id, from)?;
            let files = &core.rooms().files;
            Ok(match (files.coming(&key), files.sent(&key.id)) {
                (Some(coming), _) => show_receiving(core, now, (&key, coming)),
                (None, Some(sent)) => show_sending(core, now, sent),
                (None, None) => Value::Null,
            })
        })
        .await??;
    Ok(Json(shown))
}

/// Gives a transfer up that is under way, or forgets one that is over.
pub(crate) async fn give_up(
    State(node): State<Node>,
    Path(id): Path<String>,
    Query(query): Query<FromQuery>,
) -> Answer {
    let from = origin(&query)?;
    let name = id.clone();
    node.call(move |core, now, log| -> Result<(), jincai_core::Error> {
        let key = find(core, &id, from)?;
        core.give_up_file(now, log, &key)
    })
    .await??;
    Ok(Json(json!({ "id": name, "dropped": true })))
}

/// A whole file: its root, size, name and media type.
fn whole(core: &Core, id: &str, from: Option<AuthorityId>) -> Result<(Digest, u64, String), Error> {
    let key = find(core, id, from)?;
    let files = &core.rooms().files;
    let no_file = || Error::NoFile { id: id.to_owned() };
    let offer = match (files.coming(&key), files.sent(&key.id)) {
        (Some(coming), _) if coming.state == ReceiveState::Whole => &coming.offer,
        (Some(coming), _) if matches!(coming.state, ReceiveState::Ended(..)) => return Err(no_file()),
        (Some(coming), _) => {
            let (stored, size) = (coming.stored_bytes(), coming.offer.size);
            return Err(Error::NotWhole { id: id.to_owned(), stored, size });
        }
        (None, Some((_, sent))) if !matches!(sent.state, SendState::Ended(..)) => &sent.offer,
        (None, _) => return Err(no_file()),
    };
    Ok((offer.root, offer.size, offer.media.clone()))
}

/// The content of a whole file, or one range of it (RFC 9110 §14).
pub(crate) async fn content(
    State(node): State<Node>,
    Path(id): Path<String>,
    Query(query): Query<FromQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let from = origin(&query)?;
    let (root, size, media) = node.call(move |core, _, _| whole(core, &id, from)).await??;
    let depot = node.depot().clone();
    let opened = tokio::task::spawn_blocking(move || depot.open(&root)).await.map_err(|_| Problem::stopping())?;
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let range = asked.and_then(|asked| range_of(asked, size));
    let (start, end) = range.unwrap_or((0, size));
    let body = read_out(opened?, start, end);
    let kind = HeaderValue::from_str(&media).ok().filter(|_| !media.is_empty());
    let kind = kind.unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
    let mut response = body.into_response();
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, kind);
    // Nobody's browser shall take what somebody sent for a page of this node.
    head.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{root}\"")) {
        head.insert(header::ETAG, tag);
    }
    if range.is_some() {
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{}/{size}", end - 1)) {
            head.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The one range that is asked for; anything else is answered with the whole.
fn range_of(asked: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = asked.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (from, to) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (from, "") => (from.parse().ok()?, size),
        (from, to) => (from.parse().ok()?, to.parse::<u64>().ok()?.checked_add(1)?.min(size)),
    };
    (start < end).then_some((start, end))
}

fn read_out(content: Box<dyn Content>, start: u64, end: u64) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut at = start;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut piece = vec![0; length];
            let read = match content.read_at(at, &mut piece) {
                Ok(read) if read == length => Ok(Bytes::from(piece)),
                Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Err(io::Error::other(error.to_string())),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
            at += length as u64;
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await;
        piece.map(|piece| (piece, receiver))
    });
    Body::from_stream(pieces)
}

/// Transfers that wait for something of this node, for `status`.
pub(crate) fn show_waiting(core: &Core) -> Vec<Value> {
    let waiting = core.rooms().files.waiting().take(LISTED);
    waiting
        .map(
            |(key, error)| json!({ "id": key.id, "from": key.origin, "code": error.code(), "text": error.to_string() }),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_anything_else_is_answered_with_the_whole() {
        for (asked, range) in [
            ("bytes=0-9", Some((0, 10))),
            ("bytes=90-", Some((90, 100))),
            ("bytes=-5", Some((95, 100))),
            ("bytes=-500", Some((0, 100))),
            ("bytes=50-500", Some((50, 100))),
            ("bytes=100-", None),
            ("bytes=9-5", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-0", None),
            ("bytes=0-18446744073709551615", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(range_of(asked, 100), range, "{asked}");
        }
        assert_eq!(range_of("bytes=0-0", 0), None);
    }
}
