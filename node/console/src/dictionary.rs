//! The dictionary over HTTP.

use crate::{Node, Problem};
use axum::Json;
use axum::extract::{Path, Query, State};
use bytes::Bytes;
use jincai_dictionary::{ReleaseOrder, compare};
use jincai_types::Date;
use serde::Deserialize;
use serde_json::{Value, json};

type Answer = Result<Json<Value>, Problem>;

/// Most lines of each list of a difference.
const LISTED: usize = 10_000;

pub(crate) async fn lines(State(node): State<Node>) -> Answer {
    let lines = node.call(|core, _, _| core.rooms().dictionary.status()).await?;
    Ok(Json(json!({ "lines": lines })))
}

#[derive(Deserialize)]
pub(crate) struct ImportQuery {
    #[serde(default)]
    name: String,
}

pub(crate) async fn import(
    State(node): State<Node>,
    Path((line, set)): Path<(String, String)>,
    Query(query): Query<ImportQuery>,
    body: Bytes,
) -> Answer {
    let report = node
        .call(move |core, now, log| {
            let name = if query.name.is_empty() { set.clone() } else { query.name };
            core.import(now, log, (&line, &set, &name), &mut body.as_ref())
        })
        .await??;
    Ok(Json(json!(report)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseBody {
    effective_from: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    reason: Option<String>,
}

pub(crate) async fn release(
    State(node): State<Node>,
    Path(line): Path<String>,
    Json(body): Json<ReleaseBody>,
) -> Answer {
    let effective_from: Date = body.effective_from.parse()?;
    let release = node
        .call(move |core, now, log| {
            let order = ReleaseOrder { line: &line, effective_from, note: &body.note, reason: body.reason.as_deref() };
            core.release(now, log, order)
        })
        .await??;
    Ok(Json(json!({
        "line": release.line,
        "number": release.number,
        "root": release.root,
        "count": release.count,
        "summary": release.summary,
    })))
}

pub(crate) async fn releases(State(node): State<Node>, Path(line): Path<String>) -> Answer {
    let releases = node
        .call(move |core, _, _| {
            let held = core.rooms().dictionary.releases(&line);
            let one = |r: &jincai_dictionary::HeldRelease| {
                json!({
                    "number": r.number,
                    "root": r.root,
                    "count": r.count,
                    "effective_from": r.effective_from.to_string(),
                    "summary": r.summary,
                })
            };
            held.iter().map(one).collect::<Vec<_>>()
        })
        .await?;
    Ok(Json(json!({ "releases": releases })))
}

#[derive(Deserialize)]
pub(crate) struct CodeQuery {
    release: Option<u64>,
}

pub(crate) async fn code(
    State(node): State<Node>,
    Path((line, set, code)): Path<(String, String, String)>,
    Query(query): Query<CodeQuery>,
) -> Answer {
    let snapshot = node.call(move |core, _, _| core.rooms().dictionary.snapshot(&line, query.release)).await??;
    // The look-up reads the disk; the core thread has nothing to do with it.
    let name = code.clone();
    let found =
        tokio::task::spawn_blocking(move || snapshot.get(&set, &code)).await.map_err(|_| Problem::stopping())??;
    match found {
        Some(entry) => Ok(Json(json!(entry))),
        None => Err(Problem::not_found(format!("there is no code «{}»", name.chars().take(64).collect::<String>()))),
    }
}

#[derive(Deserialize)]
pub(crate) struct DiffQuery {
    from: u64,
    to: u64,
}

pub(crate) async fn diff(State(node): State<Node>, Path(line): Path<String>, Query(query): Query<DiffQuery>) -> Answer {
    let (old, new) = node
        .call(move |core, _, _| {
            let dictionary = &core.rooms().dictionary;
            Ok::<_, jincai_dictionary::Error>((
                dictionary.snapshot(&line, Some(query.from))?,
                dictionary.snapshot(&line, Some(query.to))?,
            ))
        })
        .await??;
    let mut comparison =
        tokio::task::spawn_blocking(move || compare(&old, &new)).await.map_err(|_| Problem::stopping())??;
    let longest =
        [comparison.added.len(), comparison.removed.len(), comparison.renamed.len(), comparison.reparented.len()];
    let shortened = longest.into_iter().any(|length| length > LISTED);
    comparison.added.truncate(LISTED);
    comparison.removed.truncate(LISTED);
    comparison.renamed.truncate(LISTED);
    comparison.reparented.truncate(LISTED);
    let mut value = json!(comparison);
    // The counts are whole; the lists are cut, and say so.
    value["lists_shortened_to"] = if shortened { json!(LISTED) } else { Value::Null };
    Ok(Json(value))
}

pub(crate) async fn verify(State(node): State<Node>, Path(line): Path<String>) -> Answer {
    let (number, snapshot) = node
        .call(move |core, _, _| {
            let dictionary = &core.rooms().dictionary;
            let number = dictionary.releases(&line).last().map_or(0, |r| r.number);
            dictionary.snapshot(&line, None).map(|snapshot| (number, snapshot))
        })
        .await??;
    let (root, count) = (snapshot.root(), snapshot.count());
    tokio::task::spawn_blocking(move || snapshot.verify()).await.map_err(|_| Problem::stopping())??;
    Ok(Json(json!({ "number": number, "root": root, "count": count, "verified": true })))
}
