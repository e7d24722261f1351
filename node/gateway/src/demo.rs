//! `jincai demo`: the main job, end to end, on real data, with a kill on the way. Every step checks what it claims; the
//! exit code is 0 only if every check held.

mod data;
pub(crate) mod nodes;
mod steps;

use crate::clock;
use crate::error::Error;
use crate::output::{progress_done, say, table};
use std::path::PathBuf;
use std::time::Instant;
use steps::Demo;

/// What the demo did, for the table at the end.
#[derive(Default)]
pub(crate) struct Report {
    steps: Vec<Vec<String>>,
}

impl Report {
    fn step(&mut self, name: &str, started: Instant, outcome: String) {
        progress_done();
        let seconds = format!("{:.1}", started.elapsed().as_secs_f64());
        say(&format!("  {name:<44} {seconds:>6} s   {outcome}"));
        self.steps.push(vec![name.to_owned(), seconds, outcome]);
    }
}

/// Runs the demo.
pub(crate) fn run(keep: bool, directory: Option<PathBuf>) -> Result<(), Error> {
    let started = clock::instant();
    let (directory, temporary) = match directory {
        Some(directory) => (directory, None),
        None => {
            let made = tempfile::Builder::new().prefix("jincai-demo-").tempdir();
            let made = made.map_err(|source| Error::System { what: "a temporary directory", source })?;
            (made.path().to_owned(), Some(made))
        }
    };
    std::fs::create_dir_all(&directory).map_err(|source| Error::File { path: directory.clone(), source })?;
    say(&format!("jincai demo in {}", directory.display()));
    let mut demo = Demo::new(directory)?;
    let mut report = Report::default();
    let outcome = demo.all(&mut report);
    if outcome.is_err()
        && let Some(temporary) = temporary
    {
        // Logs of a failed demo are what one wants to read.
        let kept = temporary.keep();
        progress_done();
        say(&format!("the nodes' logs stay in {}", kept.display()));
        return outcome;
    } else if keep && let Some(temporary) = temporary {
        drop(temporary.keep());
    }
    outcome?;
    say("");
    table(
        &heads(&["node", "release", "root", "batches sent", "bytes sent", "duplicates", "refused", "rows", "RSS KiB"]),
        &demo.summary()?,
    );
    say(&format!("\nevery check held; {:.1} s in all", started.elapsed().as_secs_f64()));
    for node in &mut demo.nodes {
        if keep {
            node.keep();
        } else {
            node.stop()?;
        }
        say(&format!("{} {}", node.client.url(), node.name));
    }
    Ok(())
}

fn heads(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}
