//! `jincai kit`: judges another implementation of the protocol from outside.
//!
//! The system under test is any command. It gets a directory with its keys, its configuration and two drop directories; this
//! program is its superior, with the production core, and judges by what comes back. Every case has a directory and a
//! process of its own, so that none depends on another. docs/kit.md says what each case wants and where that is written.

mod bench;
mod cases;
mod driver;
mod neighbour;
pub(crate) mod node;
mod receive;
mod restart;
mod send;
mod sut;

use crate::clock;
use crate::error::Error;
use crate::output::{progress, progress_done, say, show, table};
use bench::Bench;
use cases::{CASES, Case};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Why a case did not pass.
pub(crate) enum Failure {
    /// The system under test did something wrong, or nothing.
    Wrong(String),
    /// The kit itself could not go on.
    Ours(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Ours(error.into())
    }
}

/// What a case comes to.
type Judged = Result<(), Failure>;

/// The judgement that the system under test is wrong.
fn wrong<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Wrong(why.into()))
}

/// What to run.
pub(crate) struct Options {
    pub(crate) command: String,
    /// The names of the cases; none: all.
    pub(crate) cases: Vec<String>,
    /// Where the cases' directories stay; a temporary place otherwise.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) jobs: usize,
    pub(crate) patience: u64,
    pub(crate) json: bool,
}

/// A case that was run.
struct Outcome {
    case: &'static Case,
    why: Option<String>,
    seconds: f64,
}

/// Prints the cases.
pub(crate) fn list(json: bool) {
    let rows = CASES.iter().map(|case| json!({ "case": case.name, "judges": case.judges, "wants": case.wants }));
    show(&json!({ "cases": rows.collect::<Vec<_>>() }), json);
}

/// Runs the cases and prints a table; an error unless all passed.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let known = |name: &String| CASES.iter().any(|case| case.name == name.as_str());
    if let Some(name) = options.cases.iter().find(|name| !known(name)) {
        return Err(Error::NoCase { name: name.clone() });
    }
    let wanted = |case: &&Case| options.cases.is_empty() || options.cases.iter().any(|name| name == case.name);
    let chosen: Vec<&'static Case> = CASES.iter().filter(wanted).collect();
    let temporary = tempfile::Builder::new().prefix("jincai-kit-").tempdir();
    let temporary = temporary.map_err(|source| Error::System { what: "a temporary directory", source })?;
    let directory = options.directory.as_deref().unwrap_or_else(|| temporary.path());
    // The system under test may change its working directory.
    let directory = std::path::absolute(directory).map_err(|source| Error::System { what: "a directory", source })?;
    let outcomes = run_all(&chosen, &directory, options)?;
    let failed = outcomes.iter().filter(|outcome| outcome.why.is_some()).count();
    report(&outcomes, failed, options.json);
    if failed == 0 {
        return Ok(());
    }
    let kept = if options.directory.is_some() { directory } else { temporary.keep() };
    Err(Error::Kit { failed, of: outcomes.len(), kept })
}

/// Runs so many cases at a time as was asked for; most of a case is waiting.
fn run_all(chosen: &[&'static Case], directory: &Path, options: &Options) -> Result<Vec<Outcome>, Error> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some((at, case)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, chosen.get(at)?)))
        {
            let outcome = run_one(case, &directory.join(case.name), options);
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress(&format!("{count} of {} cases", chosen.len()));
            found.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, chosen.len().max(1)) {
            scope.spawn(work);
        }
    });
    progress_done();
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, outcome)| outcome).collect()
}

/// An error of the kit's own ends the run: it says nothing about the system under test.
fn run_one(case: &'static Case, directory: &Path, options: &Options) -> Result<Outcome, Error> {
    let started = clock::instant();
    let patience = Duration::from_secs(options.patience);
    let judged = Bench::start(directory, &options.command, patience).and_then(|mut bench| {
        (case.judge)(&mut bench)?;
        bench.nothing_else_applied()
    });
    let why = match judged {
        Ok(()) => None,
        Err(Failure::Wrong(why)) => Some(why),
        Err(Failure::Ours(error)) => return Err(error),
    };
    Ok(Outcome { case, why, seconds: started.elapsed().as_secs_f64() })
}

fn report(outcomes: &[Outcome], failed: usize, json: bool) {
    if json {
        let cases = outcomes.iter().map(|outcome| {
            let seconds = (outcome.seconds * 10.0).round() / 10.0;
            let (case, passed) = (outcome.case, outcome.why.is_none());
            json!({ "case": case.name, "judges": case.judges, "passed": passed, "why": outcome.why, "seconds": seconds })
        });
        let cases: Vec<_> = cases.collect();
        return show(&json!({ "passed": outcomes.len() - failed, "failed": failed, "cases": cases }), true);
    }
    let heads = ["case", "outcome", "judges", "why"].map(str::to_owned);
    let rows = outcomes.iter().map(|outcome| {
        let passed = if outcome.why.is_none() { "passed" } else { "FAILED" };
        let why = outcome.why.clone().unwrap_or_default();
        vec![outcome.case.name.into(), passed.into(), outcome.case.judges.into(), why]
    });
    table(&heads, &rows.collect::<Vec<_>>());
    say(&format!("\n{} of {} cases passed", outcomes.len() - failed, outcomes.len()));
}
