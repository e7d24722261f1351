//! The command line's way to a running node: its HTTP API on loopback, with the token from its data directory.

use crate::config::Config;
use crate::error::{Error, read};
use serde_json::Value;
use std::io::{Read, Write};
use std::time::Duration;

/// A client of one node.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    token: String,
    agent: ureq::Agent,
}

impl Client {
    /// The node of a configuration; where it listens stands in the file «address» of its data directory.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let text = |name: &str| -> Result<String, Error> {
            let bytes = read(&config.file(name))?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let address = text("address").map_err(|_| Error::Api(format!("node {} is not running", config.authority)))?;
        Ok(Self::new(&address, text("token")?))
    }

    /// A node at an address.
    pub(crate) fn new(address: &str, token: String) -> Self {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(300)));
        Self { base: format!("http://{address}"), token, agent: config.build().into() }
    }

    /// The node's address as a URL.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    fn answer(
        &self,
        path: &str,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, Value), Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Api(format!("{}{path}: {e}", self.base));
        let mut response = sent.map_err(|e| failed(&e))?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().map_err(|e| failed(&e))?;
        let value = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok((status, value))
    }

    fn good(path: &str, (status, value): (u16, Value)) -> Result<Value, Error> {
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(Error::Api(format!("{path}: {} [{}]", text("detail"), text("code"))))
    }

    /// GET.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Error> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let sent = request.header("authorization", format!("Bearer {}", self.token)).call();
        Self::good(path, self.answer(path, sent)?)
    }

    /// GET of bytes.
    pub(crate) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Api(format!("{}{path}: {e}", self.base));
        let request = self.agent.get(format!("{}{path}", self.base));
        let sent = request.header("authorization", format!("Bearer {}", self.token)).call();
        let mut response = sent.map_err(|e| failed(&e))?;
        if response.status().as_u16() != 200 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(failed(&text));
        }
        response.body_mut().with_config().limit(1 << 26).read_to_vec().map_err(|e| failed(&e))
    }

    /// GET of something long, into a file; it may take as long as it takes.
    pub(crate) fn download(
        &self,
        path: &str,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Api(format!("{}{path}: {e}", self.base));
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.get(format!("{}{path}", self.base));
        let sent = request.header("authorization", format!("Bearer {}", self.token)).call();
        let mut response = sent.map_err(|e| failed(&e))?;
        if response.status().as_u16() != 200 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(failed(&text));
        }
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        let (mut buffer, mut done) = (vec![0; 1 << 20], 0);
        loop {
            let read = body.read(&mut buffer).map_err(|e| failed(&e))?;
            if read == 0 {
                return Ok(done);
            }
            out.write_all(&buffer[..read]).map_err(|source| Error::System { what: "the file", source })?;
            done += read as u64;
            progress(done);
        }
    }

    /// POST of something long; it may take as long as it takes.
    pub(crate) fn upload(&self, path: &str, body: &mut dyn Read, size: u64) -> Result<Value, Error> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.post(format!("{}{path}", self.base)).header("content-type", "application/octet-stream");
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let request = request.header("content-length", size.to_string());
        Self::good(path, self.answer(path, request.send(ureq::SendBody::from_reader(&mut { body })))?)
    }

    /// DELETE.
    pub(crate) fn delete(&self, path: &str) -> Result<Value, Error> {
        let request = self.agent.delete(format!("{}{path}", self.base));
        let sent = request.header("authorization", format!("Bearer {}", self.token)).call();
        Self::good(path, self.answer(path, sent)?)
    }

    /// POST; an answer that is no success is an error.
    pub(crate) fn post(&self, path: &str, kind: &str, body: &[u8]) -> Result<Value, Error> {
        Self::good(path, self.post_any(path, kind, body)?)
    }

    /// POST; any answer comes back with its status.
    pub(crate) fn post_any(&self, path: &str, kind: &str, body: &[u8]) -> Result<(u16, Value), Error> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", kind);
        let sent = request.header("authorization", format!("Bearer {}", self.token)).send(body);
        self.answer(path, sent)
    }

    /// POST of JSON.
    pub(crate) fn post_json(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.post(path, "application/json", body.to_string().as_bytes())
    }
}
