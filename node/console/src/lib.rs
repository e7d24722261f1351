//! The HTTP API of a node, under `/api/v1`, with `/healthz`, `/readyz` and `/metrics` beside it.
//!
//! Every call under `/api` needs the node's bearer token. Errors are RFC 9457 problem details with a stable code. A call
//! that changes something is answered only when what it changed is durable. Nothing here holds state: calls run on the
//! node's core thread ([`Node::call`]), SQL on the table engine.

mod backup;
mod dictionary;
mod exchange;
mod files;
mod node;
mod problem;
mod queue;
mod status;
mod storage;
mod trace;

pub use node::{Call, Node, WriteBackup};
pub use problem::Problem;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// Largest request body: a code set of the whole country is 36 MB.
const BODY_BYTES: usize = 128 << 20;

/// The node's routes.
pub fn router(node: Node) -> Router {
    let api = Router::new()
        .route("/status", get(status::status))
        .route("/backup", get(backup::backup))
        .route("/restore/acceptance", post(backup::accept))
        .route("/dictionary", get(dictionary::lines))
        .route("/dictionary/{line}/releases", get(dictionary::releases).post(dictionary::release))
        .route("/dictionary/{line}/sets/{set}", post(dictionary::import))
        .route("/dictionary/{line}/sets/{set}/codes/{code}", get(dictionary::code))
        .route("/dictionary/{line}/diff", get(dictionary::diff))
        .route("/dictionary/{line}/verify", get(dictionary::verify))
        .route("/specs", get(storage::specs).post(storage::release_spec))
        .route("/tables/{table}/rows", post(storage::write_rows))
        .route("/collection", get(storage::parts).post(storage::collect))
        .route("/collection/reconciliation", get(storage::reconcile))
        .route("/sql", post(storage::sql))
        .route("/messages", get(exchange::messages).post(exchange::send))
        .route("/files", get(files::list).post(files::send))
        .route("/files/{id}", get(files::show).delete(files::give_up))
        .route("/files/{id}/content", get(files::content))
        .route("/links", get(exchange::links))
        .route("/links/{peer}/queue", get(queue::show))
        .route("/lanes", get(exchange::lanes))
        .route("/queue/holds", get(queue::holds))
        .route("/queue/hold", post(queue::hold))
        .route("/queue/release", post(queue::release))
        .route("/queue/retry", post(queue::retry))
        .route("/queue/drop", post(queue::drop_messages))
        .route("/dead-letters", get(exchange::dead_letters))
        .route("/dead-letters/replay", post(queue::replay))
        .route("/dead-letters/drop", post(queue::drop_letter))
        .route("/traces", get(trace::show).post(trace::begin))
        .route("/evidence", get(exchange::evidence))
        .layer(middleware::from_fn_with_state(node.clone(), authenticate));
    Router::new()
        .nest("/api/v1", api)
        .route("/", get(status::front))
        .route("/healthz", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(status::metrics))
        .fallback(|| async { Problem::not_found("there is nothing at this address") })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(node)
}

/// Lets a request pass only with the node's token; the comparison takes the same time whatever the token.
async fn authenticate(State(node): State<Node>, request: Request, next: Next) -> Response {
    let given = request.headers().get("authorization").and_then(|h| h.to_str().ok());
    let token = given.and_then(|h| h.strip_prefix("Bearer "));
    if token.is_some_and(|token| node.is_token(token)) {
        return next.run(request).await;
    }
    let mut response = Problem::unauthorized().into_response();
    response.headers_mut().insert("www-authenticate", axum::http::HeaderValue::from_static("Bearer"));
    response
}
