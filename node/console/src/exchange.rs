//! Messages, links, lanes, dead letters and evidence over HTTP.

use crate::queue::show_epoch;
use crate::{Node, Problem};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jincai_exchange::{Obstacle, PaceReason, Waits};
use jincai_types::{Address, AddressPattern, Epoch, Lane, Priority, Sender};
use serde::Deserialize;
use serde_json::{Value, json};

type Answer = Result<Json<Value>, Problem>;

/// Most messages of one answer; no more are shown at all.
const MESSAGES: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageBody {
    /// An address: `DESTINATION[/YEAR[/SYSTEM]]`.
    to: String,
    /// The business system that sends, as `YEAR/SYSTEM`.
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    class: Option<String>,
    id: String,
    #[serde(default)]
    subject: String,
    text: String,
}

pub(crate) async fn send(State(node): State<Node>, Json(body): Json<MessageBody>) -> Answer {
    let to: Address = body.to.parse()?;
    let class = match &body.class {
        None => Priority::Record,
        Some(name) => Priority::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| Problem::bad_request("class: control, interactive, record or bulk is wanted"))?,
    };
    let (id, address) = (body.id.clone(), to.to_string());
    let source = node
        .call(move |core, now, _| {
            let from = Sender::parse(core.exchange().authority(), body.from.as_deref())?;
            let (names, payload) = ((body.id, body.subject), body.text.into_bytes());
            core.submit_letter(now, (&from, &to), class, names, payload)
                .map(|()| from.to_string())
                .map_err(Problem::from)
        })
        .await??;
    Ok(Json(json!({ "id": id, "to": address, "source": source, "durable": true })))
}

/// Which messages somebody reads.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadQuery {
    /// For whom they are: `DESTINATION[/YEAR[/SYSTEM]]`, with `*` for what may be anything.
    #[serde(default)]
    address: Option<String>,
    /// Only those that came after the one of this number.
    #[serde(default)]
    after: u64,
    /// At most so many.
    #[serde(default)]
    limit: Option<usize>,
}

fn show_note((number, note): (u64, &jincai_core::Note)) -> Value {
    let address =
        note.lane.map(|lane| Address { destination: lane.destination, audience: note.audience() }.to_string());
    json!({
        "number": number, "id": note.id, "subject": note.subject, "source": note.source, "address": address,
        "record": note.record, "lane": note.lane.map(|lane| lane.to_string()),
    })
}

/// The newest messages, oldest first, as far as they are for this reader. `next` is the number to go on after, if more of
/// them are there than the limit lets through.
pub(crate) async fn messages(State(node): State<Node>, Query(query): Query<ReadQuery>) -> Answer {
    let pattern: AddressPattern = query.address.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let limit = query.limit.unwrap_or(MESSAGES).clamp(1, MESSAGES);
    let (count, notes, next) = node
        .call(move |core, _, _| {
            let inbox = &core.rooms().inbox;
            let mut found = inbox.read(&pattern, query.after).peekable();
            let (mut notes, mut last) = (Vec::new(), query.after);
            while let Some(note) = found.next_if(|_| notes.len() < limit) {
                last = note.0;
                notes.push(show_note(note));
            }
            (inbox.count(), notes, found.peek().map(|_| last))
        })
        .await?;
    Ok(Json(json!({ "count": count, "newest": notes, "next": next })))
}

/// The reason's name.
pub(crate) fn why(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Full => "full",
        Obstacle::Away => "away",
        Obstacle::Share => "share",
    }
}

/// What waits because of back-pressure; «text» is for people.
pub(crate) fn show_waits(waits: &Waits) -> Value {
    json!({
        "class": waits.held.class.name(), "for": waits.held.hop, "why": why(waits.held.why), "at": waits.held.at,
        "since": waits.held.since, "said_by": waits.said_by, "bytes": waits.bytes, "text": waits.to_string(),
    })
}

pub(crate) async fn links(State(node): State<Node>) -> Answer {
    let links = node
        .call(|core, _, _| {
            let lanes = |l: &jincai_exchange::LinkReport| {
                let one = |(lane, batches, bytes): &(Lane, usize, u64)| {
                    json!({ "lane": lane.to_string(), "batches": batches, "bytes": bytes })
                };
                l.lanes.iter().map(one).collect::<Vec<_>>()
            };
            let waits = |l: &jincai_exchange::LinkReport| {
                let one = |(class, until, why): &(Priority, u64, PaceReason)| {
                    let why = match why {
                        PaceReason::Window => "its daily window is closed",
                        PaceReason::Rate => "its bytes a second are used up",
                    };
                    json!({ "class": class.name(), "until": until, "why": why })
                };
                l.paced.iter().map(one).chain(l.waits.iter().map(show_waits)).collect::<Vec<_>>()
            };
            let one = |l: jincai_exchange::LinkReport| {
                json!({
                    "peer": l.peer, "up": l.up, "full": l.full, "paused": l.paused, "batches": l.batches, "bytes": l.bytes,
                    "batches_sent": l.batches_sent, "bytes_sent": l.bytes_sent,
                    "last_receipt": l.last_receipt, "waits": waits(&l), "lanes": lanes(&l),
                })
            };
            core.exchange().links().into_iter().map(one).collect::<Vec<_>>()
        })
        .await?;
    Ok(Json(json!({ "links": links })))
}

pub(crate) async fn lanes(State(node): State<Node>) -> Answer {
    let (inbound, outbound) = node
        .call(|core, _, _| {
            let exchange = core.exchange();
            let inbound = |l: jincai_exchange::InboundReport| {
                json!({
                    "lane": l.lane.to_string(), "epoch": l.applied.epoch.to_string(), "applied": l.applied.sequence,
                    "refusals": l.refusals, "waiting": l.waiting, "blocked": l.blocked, "held": l.held, "paused": l.paused,
                })
            };
            let outbound = |l: jincai_exchange::OutboundReport| {
                let delivered = |(who, position, refusals): &(_, jincai_types::LanePosition, u64)| {
                    json!({ "authority": who, "sequence": position.sequence, "refusals": refusals })
                };
                json!({
                    "lane": l.lane.to_string(),
                    "epoch": show_epoch(&l.sealed.epoch),
                    "sealed": l.sealed.sequence,
                    "delivered": l.delivered.iter().map(delivered).collect::<Vec<_>>(),
                })
            };
            let inbound: Vec<Value> = exchange.inbound().into_iter().map(inbound).collect();
            let outbound: Vec<Value> = exchange.outbound().into_iter().map(outbound).collect();
            (inbound, outbound)
        })
        .await?;
    Ok(Json(json!({ "inbound": inbound, "outbound": outbound })))
}

pub(crate) async fn dead_letters(State(node): State<Node>) -> Answer {
    let letters = node
        .call(|core, _, _| {
            let one = |l: &jincai_exchange::record::DeadLetter| {
                json!({
                    "lane": l.cause.lane.to_string(), "epoch": show_epoch(&l.cause.epoch), "sequence": l.cause.sequence,
                    "id": l.id, "code": l.code, "reason": l.reason,
                })
            };
            core.exchange().dead_letters().map(one).collect::<Vec<_>>()
        })
        .await?;
    Ok(Json(json!({ "dead_letters": letters })))
}

#[derive(Deserialize)]
pub(crate) struct EvidenceQuery {
    lane: String,
    epoch: u64,
    salt: String,
    sequence: u64,
}

pub(crate) async fn evidence(
    State(node): State<Node>,
    Query(query): Query<EvidenceQuery>,
) -> Result<Response, Problem> {
    let lane: Lane = query.lane.parse()?;
    let salt = query.salt.parse().map_err(|_| Problem::bad_request("salt: a whole number is wanted"))?;
    let epoch = Epoch { number: query.epoch, salt };
    let evidence = node.call(move |core, _, log| core.evidence(log, lane, epoch, query.sequence)).await??;
    Ok(([(header::CONTENT_TYPE, "application/cbor")], evidence).into_response())
}
