//! What can go wrong between a node and its machine or its operator.

use std::path::PathBuf;

/// A failure of the gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A configuration that cannot be used.
    #[error("configuration {path}: {reason}")]
    Config { path: PathBuf, reason: String },
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    /// A node whose data directory is not set up.
    #[error("{path} is missing: run «jincai init» and, below the ministry, «jincai enrol» first")]
    NotEnrolled { path: PathBuf },
    /// Something that would overwrite keys.
    #[error("{path} exists already; keys are never overwritten")]
    Exists { path: PathBuf },
    /// The node did not answer, or with a problem.
    #[error("{0}")]
    Api(String),
    /// A check failed.
    #[error("{0}")]
    Check(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    /// The node had to stop.
    #[error("the node stopped: {0}")]
    Stopped(String),
    /// A case that the kit does not have.
    #[error("the kit has no case «{name}»; «jincai kit cases» lists them")]
    NoCase { name: String },
    /// Another implementation did not pass.
    #[error("{failed} of {of} cases failed; their directories are below {kept}")]
    Kit { failed: usize, of: usize, kept: PathBuf },
    /// A part's own error.
    #[error("{0}")]
    Types(#[from] jincai_types::Error),
    /// A part's own error.
    #[error("{0}")]
    Crypto(#[from] jincai_crypto::Error),
    /// A part's own error.
    #[error("{0}")]
    Journal(#[from] jincai_journal::Error),
    /// A part's own error.
    #[error("{0}")]
    Core(#[from] jincai_core::Error),
    /// A part's own error.
    #[error("{0}")]
    Dictionary(#[from] jincai_dictionary::Error),
    /// A part's own error.
    #[error("{0}")]
    Files(#[from] jincai_files::Error),
    /// A part's own error.
    #[error("{0}")]
    Transport(#[from] jincai_transports::Error),
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "JC-1901",
            Self::File { .. } => "JC-1902",
            Self::NotEnrolled { .. } => "JC-1903",
            Self::Exists { .. } => "JC-1904",
            Self::Api(_) => "JC-1905",
            Self::Check(_) => "JC-1906",
            Self::System { .. } => "JC-1907",
            Self::Stopped(_) => "JC-1908",
            Self::NoCase { .. } => "JC-1909",
            Self::Kit { .. } => "JC-1910",
            Self::Types(e) => e.code(),
            Self::Crypto(e) => e.code(),
            Self::Journal(e) => e.code(),
            Self::Core(e) => e.code(),
            Self::Dictionary(e) => e.code(),
            Self::Files(e) => e.code(),
            Self::Transport(e) => e.code(),
        }
    }

    /// The exit code: 2 what the operator must mend, 3 what a check found, 1 anything else.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::NotEnrolled { .. } | Self::Exists { .. } | Self::NoCase { .. } => 2,
            Self::Check(_) | Self::Kit { .. } => 3,
            _ => 1,
        }
    }
}

/// Reads a file, naming it if that fails.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a file that only the node's user may read, and syncs it.
pub(crate) fn write_private(path: &std::path::Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}
