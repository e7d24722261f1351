//! The demo's steps.

use super::Report;
use super::data::{self, Requests};
use super::nodes::{DemoNode, pause, prepare, wait_for};
use crate::client::Client;
use crate::clock;
use crate::config::spec;
use crate::error::{Error, write_private};
use crate::output::progress;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

const MINISTRY: usize = 0;
const PROVINCE: usize = 1;
/// The counties: which node, its division, its authority.
const COUNTIES: [(usize, &str, &str); 2] = [(2, "370502", "370502000"), (3, "370522", "370522000")];
/// Rows in one request.
const REQUEST_ROWS: usize = 5_000;
/// How long the province stays away, in milliseconds.
const AWAY: u64 = 2_000;

/// A node's partitions by name: version, rows, digest, state.
type Parts = BTreeMap<String, (u64, u64, String, String)>;
/// By county and month: fen and rows.
type Totals = BTreeMap<(String, String), (i64, u64)>;

pub(crate) struct Demo {
    directory: PathBuf,
    pub(crate) nodes: Vec<DemoNode>,
    /// Counters of lives that ended: (duplicates dropped, bytes sent, batches sent) by node.
    past: BTreeMap<usize, (u64, u64, u64)>,
    rows: BTreeMap<usize, u64>,
    refused: BTreeMap<usize, u64>,
}

fn check(good: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if good { Ok(()) } else { Err(Error::Check(what())) }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

impl Demo {
    pub(crate) fn new(directory: PathBuf) -> Result<Self, Error> {
        let nodes = prepare(&directory)?;
        Ok(Self { directory, nodes, past: BTreeMap::new(), rows: BTreeMap::new(), refused: BTreeMap::new() })
    }

    pub(crate) fn all(&mut self, report: &mut Report) -> Result<(), Error> {
        self.start(report)?;
        let divisions = data::divisions()?;
        let versions = ["2.5.0", "2.6.0", "2.6.1"];
        // Codes added, removed and changed against the edition before, as counted independently when the data was packed.
        let known = [(662_853, 0, 0), (9_891, 8_533, 47_047), (0, 0, 5)];
        for ((csv, version), counts) in divisions.iter().zip(versions).zip(known) {
            self.release(report, "DIVISION", csv, &format!("divisions {version}"), Some(counts))?;
        }
        self.release(report, "CURRENCY", data::CURRENCY, "currencies ISO 4217", None)?;
        self.release_spec(report)?;
        let expected = self.independent_totals(report)?;
        self.load_and_disturb(report)?;
        self.refusals(report)?;
        self.collected(report)?;
        self.totals(report, &expected)?;
        self.reconcile(report)?;
        self.correct_one_row(report, &expected)
    }

    fn start(&mut self, report: &mut Report) -> Result<(), Error> {
        let started = clock::instant();
        for node in &mut self.nodes {
            progress(&format!("starting {}", node.name));
            node.start()?;
        }
        let count = self.nodes.len();
        wait_for("every link to be up and every authority to be known at the ministry", || {
            for node in &self.nodes {
                let status = node.status()?;
                let links = status["links"].as_array().cloned().unwrap_or_default();
                if links.is_empty() || links.iter().any(|l| l["up"] != json!(true)) {
                    return Ok(None);
                }
            }
            let known = self.nodes[MINISTRY].status()?["authorities"].as_array().map_or(0, Vec::len);
            Ok((known == count).then_some(()))
        })?;
        report.step("four nodes, mutual TLS over QUIC", started, format!("{count} processes, 3 links"));
        Ok(())
    }

    fn sent(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for node in &self.nodes {
            bytes += number(&node.status()?["counters"], "bytes_sent");
        }
        Ok(bytes)
    }

    fn release(
        &mut self,
        report: &mut Report,
        set: &str,
        csv: &[u8],
        name: &str,
        known: Option<(u64, u64, u64)>,
    ) -> Result<(), Error> {
        let started = clock::instant();
        let before = self.sent()?;
        let client = &self.nodes[MINISTRY].client;
        progress(&format!("{name}: importing"));
        client.post(&format!("/api/v1/dictionary/national/sets/{set}"), "text/csv", csv)?;
        progress(&format!("{name}: releasing"));
        let body = json!({ "effective_from": "2026-01-01", "note": name });
        let released = client.post_json("/api/v1/dictionary/national/releases", &body)?;
        let (number_of, root) = (number(&released, "number"), released["root"].clone());
        progress(&format!("{name}: on its way to every node"));
        wait_for("every node to hold the release", || {
            for node in &self.nodes {
                let lines = node.client.get("/api/v1/dictionary")?;
                let line = &lines["lines"][0];
                if number(line, "number") != number_of || line["root"] != root {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        let summary = &released["summary"];
        let changed = number(summary, "renamed") + number(summary, "reparented");
        if let Some((added, removed, changed)) = known {
            let codes = csv.iter().filter(|b| **b == b'\n').count() as u64 - 1;
            let counted = (number(summary, "added"), number(summary, "removed"), changed);
            check(counted == (added, removed, changed), || format!("{name}: counted {counted:?}: {summary}"))?;
            check(number(&released, "count") == codes, || {
                format!("{name}: {} codes, the file has {codes}", released["count"])
            })?;
        }
        let bytes = self.sent()? - before;
        let short: String = root.as_str().unwrap_or_default().chars().take(12).collect();
        let differences = format!("+{} -{} ~{changed}", summary["added"], summary["removed"]);
        let outcome =
            format!("release {number_of} root {short}… at 4 nodes, {differences}, {bytes} bytes over 3 links");
        report.step(name, started, outcome);
        Ok(())
    }

    fn release_spec(&self, report: &mut Report) -> Result<(), Error> {
        let started = clock::instant();
        let spec = spec(data::SPEC)?;
        self.nodes[MINISTRY].client.post_json("/api/v1/specs", &json!(spec))?;
        wait_for("the table to appear at every node", || {
            for node in &self.nodes {
                if !node.status()?["tables"].as_array().is_some_and(|t| t.contains(&json!(spec.table))) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        report.step("collection spec", started, format!("table {} appeared at 4 nodes", spec.table));
        Ok(())
    }

    /// What a script that knows nothing of jincai computes from the source files.
    fn independent_totals(&self, report: &mut Report) -> Result<Value, Error> {
        let started = clock::instant();
        progress("totals computed independently (Python)");
        let script = self.directory.join("totals.py");
        write_private(&script, data::TOTALS)?;
        let mut command = Command::new("python3");
        command.arg(&script);
        for ((_, _, authority), packed) in COUNTIES.into_iter().zip([data::SALFORD, data::LONDON]) {
            let file = self.directory.join(format!("payments-{authority}.csv.gz"));
            write_private(&file, packed)?;
            command.arg(format!("{authority}={}", file.display()));
        }
        let output =
            command.output().map_err(|source| Error::System { what: "python3 (the independent check)", source })?;
        check(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
        let value: Value =
            serde_json::from_slice(&output.stdout).map_err(|e| Error::Check(format!("totals.py: {e}")))?;
        let months = value["totals"].as_array().map_or(0, Vec::len);
        let outcome = format!(
            "{months} county-months, {} credits, {} rows without a day",
            value["credits"], value["without_day"]
        );
        report.step("totals by an independent script", started, outcome);
        Ok(value)
    }

    fn load_and_disturb(&mut self, report: &mut Report) -> Result<(), Error> {
        let started = clock::instant();
        let mut loaders = Vec::new();
        let done = Arc::new(AtomicU64::new(0));
        let mut all = 0;
        for ((node, division, _), packed) in COUNTIES.into_iter().zip([data::SALFORD, data::LONDON]) {
            let requests = data::payments(packed, division, REQUEST_ROWS)?;
            all += requests.rows;
            self.rows.insert(node, requests.rows);
            loaders.push((node, load(self.nodes[node].client.clone(), requests, Arc::clone(&done))));
        }
        check(all >= 100_000, || format!("only {all} rows"))?;
        let show = |done: &AtomicU64, what: &str| {
            progress(&format!("{} of {all} rows loaded; {what}", done.load(Ordering::Relaxed)));
        };
        // One county is killed in the middle of a send: while the province has not signed for what is under way.
        let (victim, _, _) = COUNTIES[0];
        wait_for("the county to be sending", || {
            show(&done, "waiting for a send to interrupt");
            let links = self.nodes[victim].client.get("/api/v1/links");
            let busy = links.is_ok_and(|l| l["links"][0]["batches"].as_u64().is_some_and(|b| b > 0));
            Ok((busy && done.load(Ordering::Relaxed) > all / 5).then_some(()))
        })?;
        self.remember(victim);
        self.nodes[victim].kill()?;
        show(&done, "a county was killed");
        self.nodes[victim].start()?;
        self.remember(PROVINCE);
        self.nodes[PROVINCE].stop()?;
        let stopped = clock::instant();
        while stopped.elapsed().as_millis() < u128::from(AWAY) {
            show(&done, "the province is away");
            pause();
        }
        self.nodes[PROVINCE].start()?;
        for (node, loader) in loaders {
            while !loader.is_finished() {
                show(&done, "loading");
                pause();
            }
            let refused = loader.join().map_err(|_| Error::Check("a loader failed".into()))??;
            self.refused.insert(node, refused);
        }
        let outcome = format!("{all} rows; a county killed in mid-send, the province away for {} s", AWAY / 1000);
        report.step("rows loaded at two counties", started, outcome);
        Ok(())
    }

    fn remember(&mut self, node: usize) {
        let Ok(status) = self.nodes[node].status() else { return };
        let counters = &status["counters"];
        let past = self.past.entry(node).or_default();
        past.0 += number(counters, "duplicates_dropped");
        past.1 += number(counters, "bytes_sent");
        past.2 += number(counters, "batches_sent");
    }

    /// Bad rows are refused by name; the rest is written, or nothing, as the request asks.
    fn refusals(&mut self, report: &mut Report) -> Result<(), Error> {
        let started = clock::instant();
        let mut named = 0;
        for (node, division, _) in COUNTIES {
            let (bad, expected) = data::bad_rows(division);
            let client = &self.nodes[node].client;
            let before = client.get("/api/v1/collection")?;
            let body = [data::COLUMNS.as_bytes(), &bad].concat();
            let (status, answer) = client.post_any("/api/v1/tables/payments/rows?mode=all", "text/csv", &body)?;
            check(status == 422 && number(&answer, "accepted") == 0, || format!("all or nothing: {status} {answer}"))?;
            check(client.get("/api/v1/collection")? == before, || "a refused request left something behind".into())?;
            let (status, answer) = client.post_any("/api/v1/tables/payments/rows?mode=good", "text/csv", &body)?;
            let refusals = answer["refusals"].as_array().cloned().unwrap_or_default();
            let got: Vec<(&str, &str)> = refusals
                .iter()
                .map(|r| (r["key"].as_str().unwrap_or_default(), r["column"].as_str().unwrap_or_default()))
                .collect();
            check(status == 200 && got == expected, || format!("refused by name: {status} {answer}"))?;
            named += got.len() as u64;
            *self.refused.entry(node).or_default() += got.len() as u64;
        }
        let natural: u64 = self.refused.values().sum::<u64>() - named;
        report.step(
            "rows that break the spec",
            started,
            format!("{named} made ones and {natural} of the sources refused by name"),
        );
        Ok(())
    }

    /// The ministry's parts, by name: version, rows, digest.
    fn parts(&self, node: usize) -> Result<Parts, Error> {
        let value = self.nodes[node].client.get("/api/v1/collection")?;
        let one = |p: &Value| {
            let text = |key: &str| p[key].as_str().unwrap_or_default().to_owned();
            (text("part"), (number(p, "version"), number(p, "rows"), text("digest"), text("state")))
        };
        Ok(value["parts"].as_array().into_iter().flatten().map(one).collect())
    }

    fn all_collected(&self) -> Result<Option<usize>, Error> {
        let there = self.parts(MINISTRY)?;
        let mut count = 0;
        for (node, _, _) in COUNTIES {
            for (name, (version, rows, digest, state)) in self.parts(node)? {
                let same = there.get(&name).is_some_and(|t| (t.0, t.1, &t.2) == (version, rows, &digest));
                if !same || state != "sent" {
                    progress(&format!(
                        "{} partitions at the ministry; waiting for {name} version {version}",
                        there.len()
                    ));
                    return Ok(None);
                }
                count += 1;
            }
        }
        Ok((count == there.len()).then_some(count))
    }

    fn collected(&self, report: &mut Report) -> Result<(), Error> {
        let started = clock::instant();
        let parts = wait_for("every partition to arrive", || self.all_collected())?;
        report.step("collected on schedule over two hops", started, format!("{parts} partitions at the ministry"));
        Ok(())
    }

    fn sql(&self, query: &str) -> Result<Vec<Vec<String>>, Error> {
        let program = std::env::current_exe().map_err(|source| Error::System { what: "this program", source })?;
        let config = &self.nodes[MINISTRY].file;
        let output = Command::new(program)
            .args(["sql", "--format", "csv", "--config"])
            .arg(config)
            .arg(query)
            .output()
            .map_err(|source| Error::System { what: "jincai sql", source })?;
        check(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
        let mut reader = csv::Reader::from_reader(output.stdout.as_slice());
        let rows = reader.records().map(|r| r.map(|r| r.iter().map(ToOwned::to_owned).collect()));
        rows.collect::<Result<_, _>>().map_err(|e| Error::Check(format!("jincai sql: {e}")))
    }

    /// County × month as the ministry answers: fen and rows.
    fn ministry_totals(&self) -> Result<Totals, Error> {
        let query = "SELECT _authority, _month, sum(amount), count(*) FROM payments GROUP BY _authority, _month";
        let mut out = BTreeMap::new();
        for row in self.sql(query)? {
            let [authority, month, sum, rows] = row.as_slice() else {
                return Err(Error::Check(format!("jincai sql answered {row:?}")));
            };
            let rows = rows.parse().map_err(|_| Error::Check(format!("jincai sql counted «{rows}»")))?;
            out.insert((authority.clone(), month.clone()), (jincai_types::parse_fen(sum)?, rows));
        }
        Ok(out)
    }

    fn totals(&self, report: &mut Report, expected: &Value) -> Result<(), Error> {
        let started = clock::instant();
        let found = self.ministry_totals()?;
        let mut cells = 0;
        let mut sum = 0i128;
        for cell in expected["totals"].as_array().into_iter().flatten() {
            let key =
                (cell[0].as_str().unwrap_or_default().to_owned(), cell[1].as_str().unwrap_or_default().to_owned());
            let wanted = (cell[2].as_i64().unwrap_or_default(), cell[3].as_u64().unwrap_or_default());
            check(found.get(&key) == Some(&wanted), || {
                format!("{key:?}: {:?} here, {wanted:?} by the script", found.get(&key))
            })?;
            cells += 1;
            sum += i128::from(wanted.0);
        }
        check(found.len() == cells, || format!("{} county-months here, {cells} by the script", found.len()))?;
        let without: u64 = self.refused.values().sum();
        let natural = expected["without_day"].as_u64().unwrap_or_default();
        let made = 6 * COUNTIES.len() as u64;
        check(without == natural + made, || format!("{without} rows refused, {natural} and {made} expected"))?;
        let outcome = format!("{cells} county-months, sum {} equal to the cent", jincai_types::format_fen(sum));
        report.step("SQL at the ministry", started, outcome);
        Ok(())
    }

    fn reconcile(&self, report: &mut Report) -> Result<(), Error> {
        let started = clock::instant();
        let value = self.nodes[MINISTRY].client.get("/api/v1/collection/reconciliation")?;
        check(number(&value, "unequal") == 0 && number(&value, "parts") > 0, || format!("partitions differ: {value}"))?;
        let outcome = format!("{} partitions equal their sources' signed totals", value["parts"]);
        report.step("reconciliation", started, outcome);
        Ok(())
    }

    fn correct_one_row(&self, report: &mut Report, expected: &Value) -> Result<(), Error> {
        let started = clock::instant();
        let (node, _, authority) = COUNTIES[1];
        let query = format!(
            "SELECT * FROM payments WHERE _authority = '{authority}' AND _month = '2021-03' ORDER BY line_id LIMIT 1"
        );
        let rows = self.sql(&query)?;
        let row = rows.first().ok_or_else(|| Error::Check("no row to correct".into()))?;
        let mut fields: Vec<String> = row.iter().take(9).cloned().collect();
        let month = ("370522000".to_owned(), "2021-03".to_owned());
        let old = jincai_types::parse_fen(&fields[5])?;
        fields[5] = jincai_types::format_fen(i128::from(old + 1));
        let mut writer = csv::Writer::from_writer(data::COLUMNS.as_bytes().to_vec());
        writer.write_record(&fields).map_err(|e| Error::Check(e.to_string()))?;
        let body = writer.into_inner().map_err(|e| Error::Check(e.to_string()))?;
        let before = self.parts(MINISTRY)?;
        self.nodes[node].client.post("/api/v1/tables/payments/rows?mode=all", "text/csv", &body)?;
        wait_for("the corrected partition to arrive", || self.all_collected())?;
        let after = self.parts(MINISTRY)?;
        let changed: BTreeSet<&String> =
            after.iter().filter(|(name, part)| before.get(*name) != Some(part)).map(|(n, _)| n).collect();
        check(changed.len() == 1, || format!("{} partitions travelled again: {changed:?}", changed.len()))?;
        let found = self.ministry_totals()?;
        let wanted = expected["totals"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c[0] == json!(month.0) && c[1] == json!(month.1));
        let wanted = wanted.and_then(|c| c[2].as_i64()).unwrap_or_default() + 1;
        check(found.get(&month).is_some_and(|f| f.0 == wanted), || {
            format!("the corrected month is {:?}", found.get(&month))
        })?;
        let name = changed.first().map(|n| n.as_str()).unwrap_or_default();
        report.step("one row corrected", started, format!("only {name} was collected again"));
        Ok(())
    }

    /// One line a node, for the table.
    pub(crate) fn summary(&self) -> Result<Vec<Vec<String>>, Error> {
        let mut out = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let status = node.status()?;
            let line = &status["dictionary"][0];
            let counters = &status["counters"];
            let past = self.past.get(&index).copied().unwrap_or_default();
            let rows: u64 = self.parts(index)?.values().map(|p| p.1).sum();
            let root: String = line["root"].as_str().unwrap_or_default().chars().take(12).collect();
            out.push(vec![
                format!("{} {}", node.authority, node.name.split('-').next().unwrap_or_default()),
                number(line, "number").to_string(),
                root,
                (number(counters, "batches_sent") + past.2).to_string(),
                (number(counters, "bytes_sent") + past.1).to_string(),
                (number(counters, "duplicates_dropped") + past.0).to_string(),
                self.refused.get(&index).copied().unwrap_or_default().to_string(),
                rows.to_string(),
                node.memory().map_or_else(String::new, |(resident, _)| resident.to_string()),
            ]);
        }
        Ok(out)
    }
}

/// Loads a county's rows, request by request; one that fails because the node is away is sent again, which is safe
/// because a row replaces the row with its key. Returns how many rows were refused.
fn load(client: Client, requests: Requests, done: Arc<AtomicU64>) -> JoinHandle<Result<u64, Error>> {
    std::thread::spawn(move || {
        let mut refused = 0;
        for file in requests.files {
            let rows = file.iter().filter(|b| **b == b'\n').count() as u64 - 1;
            let answer = wait_for("a county to take rows", || {
                match client.post("/api/v1/tables/payments/rows?mode=good", "text/csv", &file) {
                    Ok(answer) => Ok(Some(answer)),
                    Err(error @ Error::Api(_)) if error.to_string().contains("[JC-15") => Err(error),
                    Err(_) => Ok(None),
                }
            })?;
            refused += number(&answer, "refused");
            done.fetch_add(rows, Ordering::Relaxed);
        }
        Ok(refused)
    })
}
