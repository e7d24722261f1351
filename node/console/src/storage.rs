//! Standard storage and SQL over HTTP.

use crate::{Node, Problem};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jincai_storage::{Part, PartId, PartState, Spec, part_name};
use jincai_tables::Limits;
use serde::Deserialize;
use serde_json::{Value, json};

type Answer = Result<Json<Value>, Problem>;

pub(crate) async fn specs(State(node): State<Node>) -> Answer {
    let specs = node.call(|core, _, _| core.rooms().storage.specs().cloned().collect::<Vec<_>>()).await?;
    Ok(Json(json!({ "specs": specs })))
}

pub(crate) async fn release_spec(State(node): State<Node>, Json(spec): Json<Spec>) -> Answer {
    let id = spec.id.clone();
    let version = spec.version;
    node.call(move |core, now, log| core.release_spec(now, log, spec)).await??;
    Ok(Json(json!({ "id": id, "version": version })))
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// One bad row refuses the request.
    All,
    /// Good rows are written, bad ones come back by name.
    Good,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowsQuery {
    mode: Mode,
    #[serde(default = "default_system")]
    system: String,
}

fn default_system() -> String {
    "default".into()
}

pub(crate) async fn write_rows(
    State(node): State<Node>,
    Path(table): Path<String>,
    Query(query): Query<RowsQuery>,
    body: Bytes,
) -> Result<Response, Problem> {
    let plain = query.system.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if !plain || !(1..=32).contains(&query.system.len()) {
        return Err(Problem::bad_request("system: 1 to 32 characters a-z 0-9 _ - are wanted"));
    }
    let all = query.mode == Mode::All;
    let report = node
        .call(move |core, now, log| core.write_rows(now, log, (&table, &query.system), &mut body.as_ref(), all))
        .await??;
    let mut value = json!(report);
    if all && report.refused > 0 {
        let error = jincai_storage::Error::Rows { count: report.refused, rows: report.refused + report.judged };
        value["code"] = json!(error.code());
        value["detail"] = json!(error.to_string());
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(value)).into_response());
    }
    Ok(Json(value).into_response())
}

fn show_part(((table, key), part): (&PartId, &Part)) -> Value {
    let (state, reason) = match &part.state {
        PartState::Changed => ("changed", None),
        PartState::Sent => ("sent", None),
        PartState::Refused(reason) => ("refused", Some(reason.clone())),
        PartState::Reconciled => ("reconciled", None),
    };
    json!({
        "part": part_name(table, key),
        "table": table,
        "authority": key.authority,
        "month": key.month.to_string(),
        "system": key.system,
        "version": part.version,
        "rows": part.totals.rows,
        "sums": part.totals.sums,
        "digest": part.totals.digest,
        "state": state,
        "reason": reason,
    })
}

pub(crate) async fn parts(State(node): State<Node>) -> Answer {
    let parts = node.call(|core, _, _| core.rooms().storage.parts().map(show_part).collect::<Vec<_>>()).await?;
    Ok(Json(json!({ "parts": parts })))
}

pub(crate) async fn collect(State(node): State<Node>) -> Answer {
    let parts = node.call(|core, now, log| core.collect(now, true, log)).await??;
    Ok(Json(json!({ "parts": parts })))
}

pub(crate) async fn reconcile(State(node): State<Node>) -> Answer {
    let lines = node.call(|core, _, log| core.reconcile(log)).await??;
    let unequal = lines.iter().filter(|l| !l.equal).count();
    Ok(Json(json!({ "parts": lines.len(), "unequal": unequal, "lines": lines })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlBody {
    query: String,
}

pub(crate) async fn sql(State(node): State<Node>, Json(body): Json<SqlBody>) -> Answer {
    let result = node.tables().sql(&body.query, Limits::default()).await?;
    let columns: Vec<Value> = result.columns.iter().map(|c| json!({ "name": c.name, "type": c.kind.name() })).collect();
    Ok(Json(json!({ "columns": columns, "rows": result.rows })))
}
