//! The node's configuration: one TOML file, every key documented in conf/node.toml, unknown keys refused.

use crate::error::Error;
use jincai_policies::{LinkLimits, LinkPolicy};
use jincai_storage::Spec;
use jincai_types::AuthorityId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A node's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The hosted authority.
    pub(crate) authority: AuthorityId,
    /// Data directory; relative to this file.
    pub(crate) data: PathBuf,
    /// HTTP API.
    pub(crate) http: Http,
    /// QUIC, if the node speaks it.
    #[serde(default)]
    pub(crate) quic: Option<Quic>,
    /// Neighbours.
    #[serde(default)]
    pub(crate) link: Vec<Link>,
    /// How links behave.
    #[serde(default)]
    pub(crate) policy: LinkPolicy,
    /// The journal.
    #[serde(default)]
    pub(crate) journal: Journal,
    /// Files.
    #[serde(default)]
    pub(crate) files: Files,
    /// Logs.
    #[serde(default)]
    pub(crate) log: Log,
}

/// Where the API listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    /// Address; loopback unless a proxy with TLS stands before it.
    pub(crate) listen: SocketAddr,
}

/// QUIC.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quic {
    /// UDP address.
    pub(crate) listen: SocketAddr,
    /// On links that we dial: a packet so often when nothing else is sent, in seconds; 1 to 600. After three without an answer
    /// the connection is dead.
    #[serde(default = "keep_alive")]
    pub(crate) keep_alive_seconds: u64,
}

fn keep_alive() -> u64 {
    20
}

/// One neighbour.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// Who.
    pub(crate) peer: AuthorityId,
    /// Over what.
    pub(crate) transport: Transport,
    /// QUIC: host:port to dial; without it the neighbour dials us.
    #[serde(default)]
    pub(crate) address: Option<String>,
    /// File drop: the directory we put files into.
    #[serde(default)]
    pub(crate) outgoing: Option<PathBuf>,
    /// File drop: the directory we fetch files from.
    #[serde(default)]
    pub(crate) incoming: Option<PathBuf>,
    /// What may be sent to it, and when.
    #[serde(default)]
    pub(crate) limits: LinkLimits,
}

/// The transports of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// QUIC with mutual TLS.
    Quic,
    /// Files in two directories.
    Drop,
}

/// The journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Journal {
    /// Length of a segment in MiB; 1 to 1024.
    pub(crate) segment_mib: u64,
    /// A snapshot replaces the oldest segments whenever so many MiB of records have been written; 1 to 65,536.
    pub(crate) checkpoint_mib: u64,
    /// With less than so many MiB free on its disk the node takes nothing new; 0 to 1,048,576.
    pub(crate) free_mib: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { segment_mib: 64, checkpoint_mib: 256, free_mib: 256 }
    }
}

/// Files that are sent and received.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Files {
    /// Most room of the store, in MiB: whole files, parts of those that are being received, and those on their way in; 1 to
    /// 1,073,741,824.
    pub(crate) max_mib: u64,
    /// For how many days a file that was sent is kept after its destination has it; 1 to 3,650.
    pub(crate) keep_days: u64,
}

impl Default for Files {
    fn default() -> Self {
        Self { max_mib: 65_536, keep_days: 7 }
    }
}

/// Logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// error, warn, info, debug or trace, or a filter such as `info,jincai_transports=debug`.
    pub(crate) level: String,
    /// Whether lines are JSON.
    pub(crate) json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

/// Environment variables that override keys.
const OVERRIDES: [(&str, &str); 4] = [
    ("JINCAI_DATA", "data"),
    ("JINCAI_HTTP_LISTEN", "http.listen"),
    ("JINCAI_QUIC_LISTEN", "quic.listen"),
    ("JINCAI_LOG_LEVEL", "log.level"),
];

impl Config {
    /// Reads and checks a file, with the environment's overrides; paths in it count from the file's directory.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Config { path: path.to_owned(), reason };
        let text = String::from_utf8(crate::error::read(path)?).map_err(|_| wrong("not UTF-8".into()))?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        for (variable, key) in OVERRIDES {
            if let Some(value) = environment(variable) {
                set(&mut table, key, value);
            }
        }
        let mut config: Self = table.try_into().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        config.data = base.join(&config.data);
        for link in &mut config.link {
            link.outgoing = link.outgoing.take().map(|p| base.join(p));
            link.incoming = link.incoming.take().map(|p| base.join(p));
        }
        config.check().map_err(wrong)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(fault) = self.policy.fault() {
            return Err(format!("policy: {fault}"));
        }
        if !(1..=1024).contains(&self.journal.segment_mib) {
            return Err("journal.segment_mib must lie between 1 and 1024".into());
        }
        if !(1..=1 << 16).contains(&self.journal.checkpoint_mib) || self.journal.free_mib > 1 << 20 {
            return Err("journal: checkpoint_mib from 1 to 65,536 and free_mib up to 1,048,576 are wanted".into());
        }
        if !(1..=1 << 30).contains(&self.files.max_mib) || !(1..=3650).contains(&self.files.keep_days) {
            return Err("files: max_mib from 1 to 1,073,741,824 and keep_days from 1 to 3,650 are wanted".into());
        }
        if !self.http.listen.ip().is_loopback() {
            return Err("http.listen must be a loopback address: put a proxy with TLS before it to serve others".into());
        }
        if self.quic.as_ref().is_some_and(|quic| !(1..=600).contains(&quic.keep_alive_seconds)) {
            return Err("quic.keep_alive_seconds must lie between 1 and 600".into());
        }
        for (index, link) in self.link.iter().enumerate() {
            let peer = link.peer;
            if peer == self.authority || self.link[..index].iter().any(|l| l.peer == peer) {
                return Err(format!("link {peer}: it stands twice, or is this node itself"));
            }
            if let Some(fault) = link.limits.fault() {
                return Err(format!("link {peer}: limits: {fault}"));
            }
            match link.transport {
                Transport::Quic if self.quic.is_none() => return Err(format!("link {peer}: quic.listen is missing")),
                Transport::Drop if link.outgoing.is_none() || link.incoming.is_none() => {
                    return Err(format!("link {peer}: outgoing and incoming directories are wanted"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A file in the data directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }
}

/// A collection spec in TOML.
pub(crate) fn spec(text: &str) -> Result<Spec, Error> {
    toml::from_str(text).map_err(|e| Error::Check(format!("the spec cannot be read: {e}")))
}

#[expect(clippy::disallowed_methods, reason = "configuration is the one place that reads the environment")]
fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

fn set(table: &mut toml::Table, key: &str, value: String) {
    match key.split_once('.') {
        None => {
            table.insert(key.into(), toml::Value::String(value));
        }
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let Some(section) = section.as_table_mut() {
                section.insert(key.into(), toml::Value::String(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Error> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("node.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(&path)
    }

    const GOOD: &str = "authority = \"370502000\"\ndata = \"data\"\n[http]\nlisten = \"127.0.0.1:0\"\n";

    const DROP: &str = "authority = \"370502000\"\ndata = \"data\"\n[http]\nlisten = \"127.0.0.1:0\"\n[[link]]\n\
                        peer = \"370000000\"\ntransport = \"drop\"\noutgoing = \"o\"\nincoming = \"i\"\n";

    #[test]
    fn unknown_and_impossible_keys_are_refused() {
        assert!(load(GOOD).is_ok());
        assert!(
            load(&format!("{DROP}[link.limits.bulk]\nbytes_per_second = 500\nwindows = [\"20:00-06:00\"]\n")).is_ok()
        );
        for bad in [
            &format!("{GOOD}[qick]\n"),
            &GOOD.replace("127.0.0.1", "0.0.0.0"),
            &GOOD.replace("370502000", "37050200"),
            &format!("{GOOD}[[link]]\npeer = \"370000000\"\ntransport = \"quic\"\n"),
            &format!("{GOOD}[[link]]\npeer = \"370000000\"\ntransport = \"drop\"\n"),
            &format!("{GOOD}[journal]\nsegment_mib = 0\n"),
            &format!("{GOOD}[files]\nmax_mib = 0\n"),
            &format!("{GOOD}[quic]\nlisten = \"127.0.0.1:0\"\nkeep_alive_seconds = 0\n"),
            &format!("{DROP}[link.limits]\nbytes_per_second = 1\n"),
            &format!("{DROP}[link.limits.bulk]\nwindows = [\"20:00-20:00\"]\n"),
            &format!("{DROP}[link.limits]\nbulk_windows = []\n"),
        ] {
            let error = load(bad).expect_err(bad);
            assert_eq!(error.code(), "JC-1901", "{error}");
        }
    }

    #[test]
    fn every_example_configuration_is_read() {
        let conf = Path::new("../../conf");
        let mut files = vec![conf.join("node.toml")];
        files.extend(std::fs::read_dir(conf.join("demo")).expect("conf/demo").map(|e| e.expect("entry").path()));
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "toml")) {
            if !file.ends_with("spec.toml") {
                Config::load(file).expect("an example configuration");
            }
        }
    }
}
