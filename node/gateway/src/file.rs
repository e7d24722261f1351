//! `jincai file`: sends files through the running node, shows how far they are, and fetches what has come.

use crate::cli::{File, FileId};
use crate::client::Client;
use crate::commands::{client, get, percent};
use crate::error::Error;
use crate::output::{progress, progress_done, say, show};
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// How often a transfer is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Carries a command out.
pub(crate) fn execute(command: File) -> Result<(), Error> {
    match command {
        File::Send { node, path, to, name, id, wait } => {
            let client = client(&node)?;
            let sent = send(&client, &path, &to, (name.as_deref(), id.as_deref()))?;
            if !wait {
                show(&sent, node.json);
                return Ok(());
            }
            let id = sent["id"].as_str().unwrap_or_default().to_owned();
            show(&wait_for(&client, &id)?, node.json);
            Ok(())
        }
        File::List { node, direction, state, peer } => {
            let named = [("direction", direction), ("state", state), ("peer", peer)];
            let wanted = named.into_iter().filter_map(|(key, value)| Some(format!("&{key}={}", percent(&value?))));
            list(&client(&node)?, &wanted.collect::<String>(), node.json)
        }
        File::Show(file) => get(&file.node, &address(&file, "")),
        File::Get { file, path } => fetch(&file, &path),
        File::Drop(file) => {
            show(&client(&file.node)?.delete(&address(&file, ""))?, file.node.json);
            Ok(())
        }
    }
}

fn address(file: &FileId, what: &str) -> String {
    let from = file.from.as_deref().map(|from| format!("?from={}", percent(from))).unwrap_or_default();
    format!("/api/v1/files/{}{what}{from}", percent(&file.id))
}

fn wrong(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}

/// Hands a file over to the node.
pub(crate) fn send(
    client: &Client,
    path: &Path,
    to: &str,
    (name, id): (Option<&str>, Option<&str>),
) -> Result<Value, Error> {
    let file = std::fs::File::open(path).map_err(wrong(path))?;
    let size = file.metadata().map_err(wrong(path))?.len();
    let own = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let id = id.map(|id| format!("&id={}", percent(id))).unwrap_or_default();
    let address = format!("/api/v1/files?to={}&name={}{id}", percent(to), percent(name.unwrap_or(&own)));
    let mut body = Counted { file, done: 0, size };
    let sent = client.upload(&address, &mut body, size);
    progress_done();
    sent
}

/// A file that says how far it was read.
struct Counted {
    file: std::fs::File,
    done: u64,
    size: u64,
}

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(bytes)?;
        let before = self.done >> 24;
        self.done += read as u64;
        if self.done >> 24 != before {
            progress(&bar("into the store", self.done, self.size, 0));
        }
        Ok(read)
    }
}

/// A bar of forty characters, the share, and the rate if it is known.
fn bar(what: &str, done: u64, size: u64, rate: u64) -> String {
    let share = if size == 0 { 1.0 } else { done.min(size) as f64 / size as f64 };
    let full = (share * 40.0) as usize;
    let rate = if rate == 0 { String::new() } else { format!(", {:.1} MB/s", rate as f64 / 1e6) };
    format!("{what} [{}{}] {:.0} %{rate}", "█".repeat(full), "·".repeat(40 - full), share * 100.0)
}

/// Looks until a file is at its destination, or is not going to be.
fn wait_for(client: &Client, id: &str) -> Result<Value, Error> {
    loop {
        let file = client.get(&format!("/api/v1/files/{}", percent(id)))?;
        let number = |key: &str| file[key].as_u64().unwrap_or(0);
        let state = file["state"].as_str().unwrap_or_default();
        match state {
            "delivered" => {
                progress_done();
                return Ok(file);
            }
            "failed" => {
                progress_done();
                let text = |key: &str| file[key].as_str().unwrap_or_default();
                return Err(Error::Check(format!("{} [{}]", text("reason"), text("code"))));
            }
            _ => {}
        }
        let waits = file["waits"]["text"].as_str().map(|text| format!(" ({text})")).unwrap_or_default();
        progress(&format!("{}{waits}", bar(state, number("bytes"), number("size"), number("rate"))));
        std::thread::sleep(LOOK);
    }
}

/// Every page of the list.
fn list(client: &Client, wanted: &str, json: bool) -> Result<(), Error> {
    let (mut files, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = client.get(&format!("/api/v1/files?limit=1000&after={}{wanted}", percent(&after)))?;
        files.extend(page["files"].as_array_mut().map(std::mem::take).unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None if json => {
                show(&json!({ "files": files, "store": page["store"] }), true);
                return Ok(());
            }
            None => break,
        }
    }
    let columns = ["id", "direction", "from", "to", "name", "size", "state", "bytes", "rate"];
    let row = |file: &Value| -> Value {
        let mut cells: serde_json::Map<String, Value> =
            columns.iter().map(|column| ((*column).to_owned(), file[*column].clone())).collect();
        let why = [&file["waits"]["code"], &file["code"]].into_iter().find(|code| code.is_string());
        cells.insert("why".into(), why.cloned().unwrap_or(Value::Null));
        cells.into()
    };
    if files.is_empty() {
        say("no files");
    } else {
        show(&Value::Array(files.iter().map(row).collect()), false);
    }
    Ok(())
}

/// Writes a file beside its path first: nobody shall see a part of it there.
fn fetch(file: &FileId, path: &Path) -> Result<(), Error> {
    let client = client(&file.node)?;
    if path.exists() {
        return Err(wrong(path)(std::io::ErrorKind::AlreadyExists.into()));
    }
    let size = client.get(&address(file, ""))?["size"].as_u64().unwrap_or(0);
    let part = path.with_extension("part");
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let mut out = opened.map_err(wrong(&part))?;
    let fetched = client.download(&address(file, "/content"), &mut out, &mut |done| {
        progress(&bar("from the store", done, size, 0));
    });
    progress_done();
    let whole = fetched.and_then(|done| match done == size {
        true => Ok(()),
        false => Err(Error::Api(format!("{done} of {size} bytes came"))),
    });
    let named = whole.and_then(|()| out.sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(wrong(path)));
    if named.is_err() {
        // What is left of it is of no use.
        drop(std::fs::remove_file(&part));
    }
    named?;
    show(&json!({ "path": path, "size": size }), file.node.json);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_never_runs_over() {
        assert_eq!(bar("x", 0, 0, 0), format!("x [{}] 100 %", "█".repeat(40)));
        assert_eq!(bar("x", 500, 100, 0), format!("x [{}] 100 %", "█".repeat(40)));
        assert_eq!(bar("x", 50, 100, 2_500_000), format!("x [{}{}] 50 %, 2.5 MB/s", "█".repeat(20), "·".repeat(20)));
    }
}
