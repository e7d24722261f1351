//! Status, health and metrics. Health means progress: a node whose core stands still is not healthy, whatever answers.

use crate::exchange::why;
use crate::{Node, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jincai_core::Core;
use jincai_exchange::{LinkReport, Waits};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;

/// A core that has not moved for this long is not healthy.
const SILENCE: u64 = 5_000;

pub(crate) async fn front() -> &'static str {
    "jincai gateway node. The API is under /api/v1 and needs the node's token; health is under /healthz.\n"
}

pub(crate) async fn health(State(node): State<Node>) -> Response {
    let silence = node.silence();
    let healthy = silence < SILENCE;
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "healthy": healthy, "milliseconds_since_progress": silence }))).into_response()
}

pub(crate) async fn ready(State(node): State<Node>) -> Response {
    match node.call(|core, _, _| core.check_whole().map(|()| core.durable())).await {
        Ok(Ok(durable)) => Json(json!({ "ready": true, "durable": durable })).into_response(),
        Ok(Err(error)) => Problem::from(error).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Name, help and value of every counter.
fn counters(core: &Core) -> Vec<(&'static str, &'static str, u64)> {
    let c = core.exchange().counters();
    vec![
        ("messages_submitted", "Messages submitted here.", c.messages_submitted),
        ("messages_applied", "Messages applied here.", c.messages_applied),
        ("messages_refused", "Messages refused here for their meaning.", c.messages_refused),
        ("batches_sealed", "Batches sealed here.", c.batches_sealed),
        ("batches_received", "Batches received from neighbours.", c.batches_received),
        ("batches_sent", "Batches sent to neighbours, repetitions included.", c.batches_sent),
        ("bytes_received", "Bytes of batches received.", c.bytes_received),
        ("bytes_sent", "Bytes of batches sent.", c.bytes_sent),
        ("duplicates_dropped", "Batches received again and dropped.", c.duplicates_dropped),
        ("gaps_asked", "Times something missing was asked for.", c.gaps_asked),
        ("gaps_unserved", "Times a neighbour asked for what is no longer held.", c.gaps_unserved),
        ("gaps_passed_on", "Times such a request was passed on towards the origin.", c.gaps_passed_on),
        (
            "batches_late",
            "Batches of epochs that their origin had ended; their messages are dead letters.",
            c.batches_late,
        ),
        ("taken_back", "Messages sent before a restore and given back by neighbours.", c.taken_back),
        ("batches_bad", "Batches that failed authentication.", c.batches_bad),
        ("batches_not_yet", "Batches that could not be judged yet.", c.batches_not_yet),
        ("forks", "Lanes found with two continuations.", c.forks),
        ("resends", "Times a lane was sent again.", c.resends),
        ("receipts_sent", "Signed receipt lists sent.", c.receipts_sent),
        ("receipts_received", "Signed receipt lists received.", c.receipts_received),
        ("slots_received", "Newer slots received.", c.slots_received),
    ]
}

/// Name, help and value of every counter of files.
fn file_counters(core: &Core) -> Vec<(&'static str, &'static str, u64)> {
    let c = core.rooms().files.counters();
    vec![
        ("file_chunks_sent", "Chunks of files handed to the exchange here.", c.chunks_sent),
        ("file_bytes_sent", "Bytes of those.", c.bytes_sent),
        ("file_chunks_received", "Chunks of files that came and were asked for.", c.chunks_received),
        ("file_bytes_received", "Bytes of those.", c.bytes_received),
        ("file_chunks_unasked", "Chunks that came and were not asked for any more.", c.chunks_unasked),
        ("file_chunks_known", "Chunks that did not have to travel, because the store had them.", c.chunks_known),
        ("files_received", "Files that became whole here.", c.files_received),
        ("files_delivered", "Files that became whole at their destination.", c.files_delivered),
        ("file_transfers_failed", "Transfers of files that ended without a whole file.", c.transfers_failed),
    ]
}

pub(crate) async fn status(State(node): State<Node>) -> Result<Json<Value>, Problem> {
    let status = node
        .call(|core, now, _| {
            let exchange = core.exchange();
            let counters = counters(core).into_iter().chain(file_counters(core));
            let counters: serde_json::Map<String, Value> =
                counters.map(|(name, _, value)| (name.to_owned(), json!(value))).collect();
            let links: Vec<Value> = exchange
                .links()
                .into_iter()
                .map(|l| json!({ "peer": l.peer, "up": l.up, "full": l.full, "paused": l.paused, "batches": l.batches, "bytes": l.bytes, "last_receipt": l.last_receipt, "waits": waiting(&l) }))
                .collect();
            json!({
                "authority": exchange.authority(),
                "catching_up": exchange.is_catching_up(),
                "full": exchange.is_full(),
                "read_only": core.is_read_only(),
                "undelivered_lanes": exchange.undelivered().len(),
                "lost": exchange.gone().iter().map(|g| json!({
                    "lane": g.lane.to_string(), "after": g.from.sequence, "to": g.to.sequence, "epoch": g.to.epoch.to_string(),
                })).collect::<Vec<_>>(),
                "epoch": exchange.epoch().to_string(),
                "time": now,
                "durable": core.durable(),
                "links": links,
                "dictionary": core.rooms().dictionary.status(),
                "tables": core.rooms().storage.specs().map(|s| s.table.clone()).collect::<Vec<_>>(),
                "parts": core.rooms().storage.parts().count(),
                "files_waiting": crate::files::show_waiting(core),
                "notes": core.rooms().inbox.count(),
                "authorities": exchange.directory().tree().all().collect::<Vec<_>>(),
                "counters": counters,
            })
        })
        .await?;
    Ok(Json(status))
}

/// What a link's messages wait for because of back-pressure, each reason once.
fn waiting(link: &LinkReport) -> Vec<String> {
    let reasons: BTreeSet<String> = link.waits.iter().map(ToString::to_string).collect();
    reasons.into_iter().collect()
}

/// Bytes that wait because of a hop, for each hop and class that is held back.
fn write_held_back(out: &mut String, links: &[LinkReport]) {
    let sample = |link: &LinkReport, waits: &Waits| {
        let Waits { held, bytes, .. } = waits;
        let (class, why) = (held.class.name(), why(held.why));
        (format!("{{peer=\"{}\",hop=\"{}\",class=\"{class}\",why=\"{why}\"}}", link.peer, held.hop), *bytes)
    };
    let samples: Vec<(String, u64)> =
        links.iter().flat_map(|link| link.waits.iter().map(|waits| sample(link, waits))).collect();
    let samples: Vec<(&str, u64)> = samples.iter().map(|(labels, value)| (labels.as_str(), *value)).collect();
    let help = "Bytes in custody that wait because of a hop that is full, away or over its share.";
    write_metric(out, "jincai_held_back_bytes", help, "gauge", &samples);
}

pub(crate) async fn metrics(State(node): State<Node>) -> Result<Response, Problem> {
    let text = node
        .call(|core, now, _| {
            let mut out = String::new();
            for (name, help, value) in counters(core).into_iter().chain(file_counters(core)) {
                write_metric(&mut out, &format!("jincai_{name}_total"), help, "counter", &[("", value)]);
            }
            let links = core.exchange().links();
            let mut gauge = |name: &str, help: &str, value: &dyn Fn(&LinkReport) -> u64| {
                let samples: Vec<(String, u64)> =
                    links.iter().map(|l| (format!("{{peer=\"{}\"}}", l.peer), value(l))).collect();
                let samples: Vec<(&str, u64)> = samples.iter().map(|(label, value)| (label.as_str(), *value)).collect();
                write_metric(&mut out, name, help, "gauge", &samples);
            };
            gauge("jincai_link_up", "Whether a neighbour can be reached.", &|l| u64::from(l.up));
            gauge("jincai_custody_batches", "Batches in custody for a neighbour.", &|l| l.batches);
            gauge("jincai_custody_bytes", "Bytes in custody for a neighbour.", &|l| l.bytes);
            gauge("jincai_receipt_age_milliseconds", "Time since a neighbour last signed for something.", &|l| {
                if l.last_receipt == 0 { 0 } else { now.saturating_sub(l.last_receipt) }
            });
            write_held_back(&mut out, &links);
            write_files(&mut out, core);
            let full = u64::from(core.exchange().is_full());
            write_metric(&mut out, "jincai_full", "Whether there is no room to take anything.", "gauge", &[("", full)]);
            let read_only = u64::from(core.is_read_only());
            let help = "Whether the journal is damaged, so that only reads are answered.";
            write_metric(&mut out, "jincai_read_only", help, "gauge", &[("", read_only)]);
            write_metric(&mut out, "jincai_durable_record", "Last durable record.", "gauge", &[("", core.durable())]);
            out
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// How many transfers are in which state of waiting.
fn write_files(out: &mut String, core: &Core) {
    let files = &core.rooms().files;
    let coming = files.receiving().filter(|(_, coming)| !coming.is_over()).count() as u64;
    let going = files.sending().filter(|(_, sending)| !sending.is_over()).count() as u64;
    let samples = [("{direction=\"in\"}", coming), ("{direction=\"out\"}", going)];
    write_metric(out, "jincai_file_transfers", "Transfers of files under way.", "gauge", &samples);
    let waiting = files.waiting().count() as u64;
    let help = "Transfers of files that wait for something of this node, such as room.";
    write_metric(out, "jincai_file_transfers_waiting", help, "gauge", &[("", waiting)]);
}

/// The Prometheus text exposition format, version 0.0.4.
fn write_metric(out: &mut String, name: &str, help: &str, kind: &str, samples: &[(&str, u64)]) {
    let mut write = || -> std::fmt::Result {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        samples.iter().try_for_each(|(labels, value)| writeln!(out, "{name}{labels} {value}"))
    };
    write().expect("writing into a String cannot fail");
}
