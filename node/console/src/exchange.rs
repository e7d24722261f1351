//! Messages, links, lanes, dead letters and evidence over HTTP.

use crate::queue::show_epoch;
use crate::{Node, Problem};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jincai_exchange::{Obstacle, PaceReason, Waits};
use jincai_types::{Destination, Epoch, Lane, Priority};
use serde::Deserialize;
use serde_json::{Value, json};

type Answer = Result<Json<Value>, Problem>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageBody {
    to: String,
    #[serde(default)]
    class: Option<String>,
    id: String,
    #[serde(default)]
    subject: String,
    text: String,
}

pub(crate) async fn send(State(node): State<Node>, Json(body): Json<MessageBody>) -> Answer {
    let to: Destination = body.to.parse()?;
    let class = match &body.class {
        None => Priority::Record,
        Some(name) => Priority::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| Problem::bad_request("class: control, interactive, record or bulk is wanted"))?,
    };
    let id = body.id.clone();
    node.call(move |core, now, _| core.submit_note(now, to, class, (body.id, body.subject), body.text.into_bytes()))
        .await??;
    Ok(Json(json!({ "id": id, "durable": true })))
}

pub(crate) async fn messages(State(node): State<Node>) -> Answer {
    let (count, notes) = node
        .call(|core, _, _| {
            let inbox = &core.rooms().inbox;
            let one = |n: &jincai_core::Note| {
                json!({ "id": n.id, "subject": n.subject, "record": n.record, "lane": n.lane.map(|l| l.to_string()) })
            };
            (inbox.count(), inbox.notes().map(one).collect::<Vec<_>>())
        })
        .await?;
    Ok(Json(json!({ "count": count, "newest": notes })))
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
