//! What operators do with what waits, over HTTP: look into a queue, send again, hold, release, drop, replay.

use crate::exchange::show_waits;
use crate::{Node, Problem};
use axum::Json;
use axum::extract::{Path, Query, State};
use jincai_exchange::record::Cause;
use jincai_exchange::{Person, QueuedBatch, Target};
use jincai_types::{Address, AuthorityId, Epoch, Lane};
use serde::Deserialize;
use serde_json::{Value, json};

type Answer = Result<Json<Value>, Problem>;

/// Most batches shown at once.
const SHOWN: usize = 1_000;

/// An epoch as JSON: the salt as text, because it does not fit JSON's numbers.
pub(crate) fn show_epoch(epoch: &Epoch) -> Value {
    json!({ "number": epoch.number, "salt": epoch.salt.to_string() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EpochBody {
    number: u64,
    salt: String,
}

impl EpochBody {
    fn parse(&self) -> Result<Epoch, Problem> {
        let salt = self.salt.parse().map_err(|_| Problem::bad_request("epoch.salt: a whole number is wanted"))?;
        Ok(Epoch { number: self.number, salt })
    }
}

/// What is held, or released.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetBody {
    #[serde(default)]
    peer: Option<AuthorityId>,
    #[serde(default)]
    lane: Option<String>,
    by: String,
    reason: String,
}

impl TargetBody {
    fn parse(self) -> Result<(Target, Person), Problem> {
        let target = match (self.peer, self.lane) {
            (Some(peer), None) => Target::Link(peer),
            (None, Some(lane)) => Target::Lane(lane.parse()?),
            _ => return Err(Problem::bad_request("either «peer» or «lane» is wanted")),
        };
        Ok((target, Person { by: self.by, reason: self.reason }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowQuery {
    #[serde(default)]
    lane: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

fn show_batch(batch: &QueuedBatch) -> Value {
    let messages: Vec<Value> = batch
        .messages
        .iter()
        .map(|(sequence, a)| {
            let address = Address::of(batch.lane.destination, a).map(|address| address.to_string()).ok();
            json!({
                "sequence": sequence, "id": a.id, "type": a.kind, "subject": a.subject, "time": a.time,
                "source": a.source, "address": address,
            })
        })
        .collect();
    json!({
        "lane": batch.lane.to_string(), "epoch": show_epoch(&batch.end.epoch), "first": batch.first,
        "last": batch.end.sequence, "bytes": batch.bytes, "record": batch.record, "sealed_at": batch.sealed_at,
        "state": batch.state.name(), "waits": batch.waits.as_ref().map(show_waits), "messages": messages,
    })
}

/// The batches in custody for a neighbour, in the order in which each lane is sent.
pub(crate) async fn show(
    State(node): State<Node>,
    Path(peer): Path<AuthorityId>,
    Query(query): Query<ShowQuery>,
) -> Answer {
    let lane: Option<Lane> = query.lane.as_deref().map(str::parse).transpose()?;
    let limit = query.limit.unwrap_or(100).min(SHOWN);
    let batches = node.call(move |core, _, log| core.queue(log, peer, lane, limit)).await??;
    Ok(Json(json!({ "peer": peer, "batches": batches.iter().map(show_batch).collect::<Vec<_>>() })))
}

/// What is held by operators.
pub(crate) async fn holds(State(node): State<Node>) -> Answer {
    let one = |target: &Target| match target {
        Target::Link(peer) => json!({ "peer": peer }),
        Target::Lane(lane) => json!({ "lane": lane.to_string() }),
    };
    let holds = node.call(move |core, _, _| core.exchange().paused().map(one).collect::<Vec<_>>()).await?;
    Ok(Json(json!({ "holds": holds })))
}

pub(crate) async fn hold(State(node): State<Node>, Json(body): Json<TargetBody>) -> Answer {
    let (target, person) = body.parse()?;
    node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.hold(target, person, ctx))).await??;
    Ok(Json(json!({ "held": target.to_string() })))
}

pub(crate) async fn release(State(node): State<Node>, Json(body): Json<TargetBody>) -> Answer {
    let (target, person) = body.parse()?;
    node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.release(target, person, ctx))).await??;
    Ok(Json(json!({ "released": target.to_string() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryBody {
    peer: AuthorityId,
    #[serde(default)]
    lane: Option<String>,
}

pub(crate) async fn retry(State(node): State<Node>, Json(body): Json<RetryBody>) -> Answer {
    let lane: Option<Lane> = body.lane.as_deref().map(str::parse).transpose()?;
    let lanes =
        node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.retry(body.peer, lane, ctx))).await??;
    Ok(Json(json!({ "lanes": lanes })))
}

/// Messages of a lane that begins here, up to a number; or the one that a lane to here waits with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DropBody {
    lane: String,
    #[serde(default)]
    through: Option<u64>,
    by: String,
    reason: String,
}

pub(crate) async fn drop_messages(State(node): State<Node>, Json(body): Json<DropBody>) -> Answer {
    let lane: Lane = body.lane.parse()?;
    let person = Person { by: body.by, reason: body.reason };
    let Some(through) = body.through else {
        let cause =
            node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.refuse_waiting(lane, person, ctx)));
        let cause = cause.await??;
        return Ok(Json(json!({
            "lane": lane.to_string(), "refused": { "epoch": show_epoch(&cause.epoch), "sequence": cause.sequence },
        })));
    };
    let given_up =
        node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.give_up(lane, through, person, ctx)));
    let range = given_up.await??.map(|(from, to)| {
        json!({
            "after": { "epoch": show_epoch(&from.epoch), "sequence": from.sequence },
            "to": { "epoch": show_epoch(&to.epoch), "sequence": to.sequence },
        })
    });
    Ok(Json(json!({ "lane": lane.to_string(), "given_up": range })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LetterBody {
    lane: String,
    epoch: EpochBody,
    sequence: u64,
    by: String,
    reason: String,
}

impl LetterBody {
    fn parse(self) -> Result<(Cause, Person), Problem> {
        let cause = Cause { lane: self.lane.parse()?, epoch: self.epoch.parse()?, sequence: self.sequence };
        Ok((cause, Person { by: self.by, reason: self.reason }))
    }
}

pub(crate) async fn replay(State(node): State<Node>, Json(body): Json<LetterBody>) -> Answer {
    let (cause, person) = body.parse()?;
    node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.replay_letter(cause, person, ctx))).await??;
    Ok(Json(json!({ "lane": cause.lane.to_string(), "sequence": cause.sequence, "applied": true })))
}

pub(crate) async fn drop_letter(State(node): State<Node>, Json(body): Json<LetterBody>) -> Answer {
    let (cause, person) = body.parse()?;
    node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.drop_letter(cause, person, ctx))).await??;
    Ok(Json(json!({ "lane": cause.lane.to_string(), "sequence": cause.sequence, "dropped": true })))
}
