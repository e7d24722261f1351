//! Where a message is: found by its id at this node, then asked of every node on its way, over HTTP.

use crate::queue::show_epoch;
use crate::{Node, Problem};
use axum::Json;
use axum::extract::{Query, State};
use jincai_exchange::record::Cause;
use jincai_exchange::{Exchange, Found, HandedOn, HopReport, Trace, find_messages};
use jincai_types::{AuthorityId, hex};
use serde::Deserialize;
use serde_json::{Value, json};

type Answer = Result<Json<Value>, Problem>;

/// Most places of one id that are told.
const PLACES: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceBody {
    id: String,
    #[serde(default)]
    to: Option<AuthorityId>,
}

fn show_place(Found { place, address }: &Found) -> Value {
    json!({
        "lane": place.lane.to_string(), "epoch": show_epoch(&place.epoch), "sequence": place.sequence,
        "address": address.to_string(),
    })
}

/// Begins a search. The newest message with the id is traced; other places of the same id are named.
pub(crate) async fn begin(State(node): State<Node>, Json(body): Json<TraceBody>) -> Answer {
    if body.id.is_empty() {
        return Err(Problem::bad_request("id: an id is wanted"));
    }
    let records = node.call(|core, _, _| core.exchange().traceable()).await?;
    let (log, id) = (node.log().clone(), body.id.clone());
    let searched = tokio::task::spawn_blocking(move || find_messages(&log, &records, &id, PLACES)).await;
    let places = searched.map_err(|_| Problem::stopping())?;
    let Some(found) = places.first().cloned() else {
        return Err(Problem::not_found(
            "this node remembers no message with this id; try at its origin or destination",
        ));
    };
    let place = show_place(&found);
    let name = node.call(move |core, now, log| core.operate(now, log, |e, ctx| e.trace(found, body.to, ctx))).await??;
    Ok(Json(json!({
        "trace": name, "place": place, "other_places": places[1..].iter().map(show_place).collect::<Vec<_>>(),
    })))
}

fn show_handed(exchange: &Exchange, handed: &HandedOn, place: &Cause) -> Value {
    let receipt = match &handed.receipt {
        None => Value::Null,
        Some(signed) => json!({ "verified": exchange.is_receipt_of(handed, place), "cose": hex(signed) }),
    };
    json!({ "to": handed.to, "time": handed.time, "in_custody": handed.time.is_none(), "receipt": receipt })
}

fn show_hop(exchange: &Exchange, report: &HopReport, place: &Cause) -> Value {
    let handed: Vec<Value> = report.handed.iter().map(|handed| show_handed(exchange, handed, place)).collect();
    json!({
        "authority": report.authority, "answered": true, "state": report.state.name(), "record": report.record,
        "from": report.from, "time": report.time, "handed_on": handed, "reason": report.reason,
    })
}

fn show_trace(exchange: &Exchange, trace: &Trace) -> Value {
    let hop = |(authority, unasked): &(AuthorityId, Option<String>)| match trace.answers.get(authority) {
        Some(report) => show_hop(exchange, report, &trace.found.place),
        None => json!({ "authority": authority, "answered": false, "reason": unasked }),
    };
    let complete = trace.way.iter().all(|(who, unasked)| unasked.is_some() || trace.answers.contains_key(who));
    let hops: Vec<Value> = trace.way.iter().map(hop).collect();
    json!({ "place": show_place(&trace.found), "complete": complete, "hops": hops })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceQuery {
    trace: String,
}

/// How far a search has come.
pub(crate) async fn show(State(node): State<Node>, Query(query): Query<TraceQuery>) -> Answer {
    let shown = node.call(move |core, _, _| {
        let exchange = core.exchange();
        exchange.traced(&query.trace).map(|trace| show_trace(exchange, trace))
    });
    let shown = shown.await?.ok_or_else(|| Problem::not_found("there is no such search (any more)"))?;
    Ok(Json(shown))
}
