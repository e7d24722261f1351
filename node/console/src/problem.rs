//! Errors as RFC 9457 problem details: what was wrong, where, what to do, and a stable code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jincai_types::Fault;
use serde::Serialize;

/// After so many seconds what is not possible now may be tried again.
const RETRY_AFTER: &str = "10";

/// A problem, as it is sent.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    #[serde(skip)]
    status_code: StatusCode,
    /// HTTP status.
    status: u16,
    /// A short name of the kind of problem.
    title: &'static str,
    /// One sentence: what was wrong.
    detail: String,
    /// The stable code, JC-####; docs/errors.md says what to do.
    code: &'static str,
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status_code: status, status: status.as_u16(), title, detail: detail.into(), code }
    }

    fn with(self, status: StatusCode, title: &'static str) -> Self {
        Self { status_code: status, status: status.as_u16(), title, ..self }
    }

    /// A request that cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "the request cannot be understood", "JC-1801", detail)
    }

    /// Nothing there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found", "JC-1802", detail)
    }

    /// No token, or not this node's.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail =
            "send «Authorization: Bearer TOKEN» with this node's token (the file «token» in its data directory)";
        Self::new(StatusCode::UNAUTHORIZED, "not authenticated", "JC-1803", detail)
    }

    /// The node is going down.
    #[must_use]
    pub fn stopping() -> Self {
        let detail = "the node is stopping; whether the request took effect is not known: ask again when it is back";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "JC-1804", detail)
    }

    fn of(code: &'static str, fault: Fault, detail: String) -> Self {
        let (status, title) = match fault {
            Fault::Peer => (StatusCode::UNPROCESSABLE_ENTITY, "the request breaks a rule"),
            Fault::Operator => (StatusCode::INTERNAL_SERVER_ERROR, "the node needs its operator"),
            Fault::Passing => (StatusCode::SERVICE_UNAVAILABLE, "not possible now"),
            Fault::Bug => (StatusCode::INTERNAL_SERVER_ERROR, "a fault of the node"),
        };
        Self::new(status, title, code, detail)
    }
}

impl From<jincai_core::Error> for Problem {
    fn from(error: jincai_core::Error) -> Self {
        if let jincai_core::Error::Files(error) = error {
            return error.into();
        }
        Self::of(error.code(), error.fault(), error.to_string())
    }
}

impl From<jincai_files::Error> for Problem {
    fn from(error: jincai_files::Error) -> Self {
        use jincai_files::Error::{NoFile, NotWhole};
        let problem = Self::of(error.code(), error.fault(), error.to_string());
        match error {
            NoFile { .. } => problem.with(StatusCode::NOT_FOUND, "not found"),
            NotWhole { .. } => problem.with(StatusCode::CONFLICT, "not whole yet"),
            _ => problem,
        }
    }
}

impl From<jincai_dictionary::Error> for Problem {
    fn from(error: jincai_dictionary::Error) -> Self {
        Self::of(error.code(), error.fault(), error.to_string())
    }
}

impl From<jincai_tables::Error> for Problem {
    fn from(error: jincai_tables::Error) -> Self {
        Self::of(error.code(), error.fault(), error.to_string())
    }
}

impl From<jincai_types::Error> for Problem {
    fn from(error: jincai_types::Error) -> Self {
        Self::of(error.code(), error.fault(), error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status_code, Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status_code == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}
