//! What the command line prints: results on standard output, progress and complaints on standard error.

use serde_json::Value;
use std::io::{IsTerminal, Write};

/// A line of the result.
#[expect(clippy::print_stdout, reason = "the command line's result")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Progress, replaced by the next one; nothing where the output is no terminal: a file would hold every line of it.
pub(crate) fn progress(text: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        // Progress that cannot be shown is no loss.
        drop(write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush()));
    }
}

/// Ends a line of progress.
pub(crate) fn progress_done() {
    progress("");
}

/// What went wrong.
#[expect(clippy::print_stderr, reason = "the command line's complaint")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// JSON for programs, or lines of `key value` for people.
pub(crate) fn show(value: &Value, json: bool) {
    if json {
        say(&format!("{value:#}"));
    } else {
        lines(value, "");
    }
}

fn lines(value: &Value, name: &str) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                lines(value, &name);
            }
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            let rows: Vec<&serde_json::Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
            let Some(first) = rows.first() else { return say(&format!("{name}: none")) };
            let heads: Vec<String> = first.keys().cloned().collect();
            let cells =
                rows.iter().map(|row| heads.iter().map(|h| plain(row.get(h).unwrap_or(&Value::Null))).collect());
            if !name.is_empty() {
                say(&format!("{name}:"));
            }
            table(&heads, &cells.collect::<Vec<Vec<String>>>());
        }
        other => say(&format!("{name}: {}", plain(other))),
    }
}

/// A value as one cell.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        other => other.to_string(),
    }
}

/// A table with aligned columns.
pub(crate) fn table(heads: &[String], rows: &[Vec<String>]) {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count());
        cells.chain(std::iter::once(heads[at].chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| {
            let gap = width.saturating_sub(cell.chars().count());
            let number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !cell.contains(':');
            if number { format!("{}{cell}", " ".repeat(gap)) } else { format!("{cell}{}", " ".repeat(gap)) }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say(&line(heads));
    rows.iter().for_each(|row| say(&line(row)));
}
