//! What each command does.

use crate::backup::{From, restore};
use crate::cli::{
    Bench, Cli, Collect, Command, ConfigCommand, Dict, Enrol, Envelope, Format, Journal, Kit, Node, Restore,
    SpecCommand,
};
use crate::client::Client;
use crate::config::{self, Config};
use crate::enrol::{self, Enrolment};
use crate::error::{Error, read};
use crate::output::{complain, progress, progress_done, say, show, table};
use crate::{bench, country, demo, file, kit, messages, queue, release, run, surge, trace};
use jincai_crypto::verify_evidence;
use jincai_journal::{DirBlobs, DirDisk, MemoryBlobs, Point, Quarantine};
use jincai_simulation::{FaultSet, Options, Summary};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const CSV: &str = "text/csv";

/// Carries a command out.
pub(crate) fn execute(cli: Cli) -> Result<(), Error> {
    match cli.command {
        Command::Init(node) => init(&node),
        Command::Enrol(command) => enrolment(command),
        Command::Run(node) => {
            let config = Config::load(&node.config)?;
            logs(&config)?;
            run::runtime()?.block_on(run::run(&config))
        }
        Command::Status(node) => get(&node, "/api/v1/status"),
        Command::Doctor(node) => doctor(&node),
        Command::Config(ConfigCommand::Check(node)) => {
            let config = Config::load(&node.config)?;
            let text = toml::to_string(&config).map_err(|e| Error::Check(e.to_string()))?;
            say(text.trim_end());
            Ok(())
        }
        Command::Dict(command) => dictionary(command),
        Command::Spec(SpecCommand::Release { node, file }) => {
            let text = String::from_utf8_lossy(&read(&file)?).into_owned();
            show(&client(&node)?.post_json("/api/v1/specs", &json!(config::spec(&text)?))?, node.json);
            Ok(())
        }
        Command::Spec(SpecCommand::List(node)) => get(&node, "/api/v1/specs"),
        Command::Load { node, table, file, mode } => {
            let path = format!("/api/v1/tables/{table}/rows?mode={mode}");
            let (status, value) = client(&node)?.post_any(&path, CSV, &read(&file)?)?;
            show(&value, node.json);
            if status == 200 { Ok(()) } else { Err(Error::Check("nothing was written".into())) }
        }
        Command::Collect(command) => match command {
            Collect::Run(node) => post(&node, "/api/v1/collection"),
            Collect::Status(node) => get(&node, "/api/v1/collection"),
            Collect::Reconcile(node) => reconcile(&node),
        },
        Command::Sql { node, query, format } => sql(&node, &query, if node.json { Format::Json } else { format }),
        Command::Send(args) => messages::send(&args),
        Command::Inbox(args) => messages::inbox(&args),
        Command::Queue(command) => queue::execute(command),
        Command::File(command) => file::execute(command),
        Command::Trace(args) => trace::execute(&args),
        Command::Envelope(command) => envelope(command),
        Command::Journal(Journal::Verify(node)) => journal_verify(&node),
        Command::Journal(Journal::Repair { node, from }) => journal_repair(&node, &from),
        Command::Backup { node, out } => backup(&node, &out),
        Command::Restore(restore) => set_back(&restore),
        Command::Demo { keep, dir } => demo::run(keep, dir),
        Command::Kit(Kit::Run { sut: command, cases, dir: directory, jobs, patience, json }) => {
            kit::run(&kit::Options { command, cases, directory, jobs, patience, json })
        }
        Command::Kit(Kit::Node { config }) => kit::node::run(&config),
        Command::Kit(Kit::Cases { json }) => {
            kit::list(json);
            Ok(())
        }
        Command::Bench(bench) => measure(bench),
        Command::Sim(args) => {
            let seeds = seeds_of(&args.seeds)?;
            match (args.surge, args.release) {
                (Some(senders), _) => surge::simulate(senders, seeds, args.json),
                (None, Some(counties)) => release::simulate((counties, args.codes), seeds, args.json),
                (None, None) => simulate((args.nodes, args.days), seeds, &args.faults, args.trace, args.json),
            }
        }
    }
}

fn measure(bench: Bench) -> Result<(), Error> {
    match bench {
        Bench::Relay { transport, messages, rate, in_flight, json } => {
            bench::relay(&transport, messages, bench::Load::new(rate, in_flight), json)
        }
        Bench::Bulk { bytes, dir, json } => bench::bulk(bytes, dir.as_deref(), json),
        Bench::Idle { settle, seconds, json } => bench::idle(settle, seconds, json),
        Bench::Links { links, messages, json } => bench::links(&links, messages, json),
        Bench::Priorities { mbits, rtt, messages, bytes, json } => {
            bench::priorities((mbits, rtt), messages, bytes, json)
        }
        Bench::Queue { messages, dir, json } => bench::queue(messages, dir.as_deref(), json),
    }
}

fn logs(config: &Config) -> Result<(), Error> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level)
        .map_err(|e| Error::Check(format!("log.level: {e}")))?;
    // A log that cannot be written must not stop what it would have told of: the library would print, and panic at that.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    if config.log.json {
        builder.json().init()
    } else {
        builder.with_ansi(false).init()
    }
    Ok(())
}

pub(crate) fn client(node: &Node) -> Result<Client, Error> {
    Client::of(&Config::load(&node.config)?)
}

pub(crate) fn get(node: &Node, path: &str) -> Result<(), Error> {
    show(&client(node)?.get(path)?, node.json);
    Ok(())
}

fn post(node: &Node, path: &str) -> Result<(), Error> {
    show(&client(node)?.post(path, "application/json", b"")?, node.json);
    Ok(())
}

fn init(node: &Node) -> Result<(), Error> {
    let config = Config::load(&node.config)?;
    enrol::init(&config)?;
    let request = config.file("enrolment.request");
    let enrolled = config.file("enrolment.cbor").exists();
    let next = if enrolled { "run" } else { "enrol" };
    if node.json {
        show(&json!({ "authority": config.authority, "data": config.data, "request": request, "next": next }), true);
    } else if enrolled {
        say(&format!("{} is set up in {}; next: jincai run", config.authority, config.data.display()));
    } else {
        say(&format!("{} has keys in {}.", config.authority, config.data.display()));
        say(&format!("Next: give {} to your superior, who runs «jincai enrol sign»;", request.display()));
        say("then take the bundle in with «jincai enrol accept».");
    }
    Ok(())
}

fn enrolment(command: Enrol) -> Result<(), Error> {
    match command {
        Enrol::Sign { node, request, out } => {
            let authority = enrol::sign_request(&Config::load(&node.config)?, &request, &out)?;
            say(&format!("{authority} is enrolled; give {} back", out.display()));
        }
        Enrol::Accept { node, bundle } => {
            let fingerprint = enrol::accept(&Config::load(&node.config)?, &bundle)?;
            say(&format!("enrolled below the root {fingerprint}: compare it with the one your superior names"));
        }
    }
    Ok(())
}

fn doctor(node: &Node) -> Result<(), Error> {
    let mut findings: Vec<Value> = Vec::new();
    let mut find = |what: &str, outcome: Result<String, Error>| {
        let (good, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error} [{}]", error.code())),
        };
        findings.push(json!({ "check": what, "good": good, "detail": detail }));
        good
    };
    let config = Config::load(&node.config);
    let config = match config {
        Ok(config) => {
            find("configuration", Ok(node.config.display().to_string()));
            config
        }
        Err(error) => {
            find("configuration", Err(error));
            return report(&findings, node.json);
        }
    };
    find("keys", enrol::keys(&config).map(|_| "readable".into()));
    find(
        "enrolment",
        Enrolment::load(&config).and_then(|e| e.directory()).map(|d| format!("{} authorities", d.tree().all().count())),
    );
    let running = Client::of(&config).and_then(|c| c.get("/api/v1/status").map(|status| (c, status)));
    match running {
        Ok((client, status)) => {
            find("running", Ok(client.url().to_owned()));
            let whole = if status["read_only"] == json!(true) {
                let text = "damaged: reads are answered as of the record before, nothing is taken; see «jincai journal verify»";
                Err(Error::Check(text.into()))
            } else {
                Ok("whole".into())
            };
            find("journal", whole);
            let full = status["full"] == json!(true);
            let room = if full {
                Err(Error::Check("the disk is full: nothing new is taken".into()))
            } else {
                Ok("enough".into())
            };
            find("room on the disk", room);
            for (name, outcome) in waiting_files(&status) {
                find(&name, outcome);
            }
            let links = status["links"].as_array().cloned().unwrap_or_default();
            for link in links {
                let (peer, backlog) = (link["peer"].as_str().unwrap_or_default(), &link["batches"]);
                let up = link["up"].as_bool().unwrap_or(false);
                let outcome = if link["full"] == json!(true) {
                    Err(Error::Check(format!("its disk is full; {backlog} batches are kept for it here")))
                } else if let Some(waits) = link["waits"].get(0).and_then(Value::as_str) {
                    Err(Error::Check(format!("{backlog} batches in custody; {waits}")))
                } else if up {
                    Ok(format!("up, {backlog} batches in custody"))
                } else {
                    Err(Error::Check(format!("down, {backlog} batches in custody; the node's log names the reason")))
                };
                find(&format!("link {peer}"), outcome);
            }
        }
        Err(error) => {
            find("running", Err(error));
        }
    }
    report(&findings, node.json)
}

/// Files that wait for something of the node.
fn waiting_files(status: &Value) -> Vec<(String, Result<String, Error>)> {
    let text = |file: &Value, key: &str| file[key].as_str().unwrap_or_default().to_owned();
    let finding = |file: &Value| {
        let why = format!("{} [{}]", text(file, "text"), text(file, "code"));
        (format!("file {}", text(file, "id")), Err(Error::Check(why)))
    };
    status["files_waiting"].as_array().into_iter().flatten().map(finding).collect()
}

fn report(findings: &[Value], json: bool) -> Result<(), Error> {
    show(&json!(findings), json);
    let bad = findings.iter().filter(|f| f["good"] == json!(false)).count();
    if bad == 0 { Ok(()) } else { Err(Error::Check(format!("{bad} of {} checks failed", findings.len()))) }
}

fn dictionary(command: Dict) -> Result<(), Error> {
    match command {
        Dict::Import { node, set, file, name, line } => {
            let path = format!("/api/v1/dictionary/{line}/sets/{set}?name={}", percent(&name));
            show(&client(&node)?.post(&path, CSV, &read(&file)?)?, node.json);
        }
        Dict::Release { node, effective_from, note, reason, line } => {
            let body = json!({ "effective_from": effective_from, "note": note, "reason": reason });
            show(&client(&node)?.post_json(&format!("/api/v1/dictionary/{line}/releases"), &body)?, node.json);
        }
        Dict::Diff { node, a, b, line } => show(&difference(&node, &a, &b, &line)?, node.json),
        Dict::Get { node, set, code, release, line } => {
            let at = release.map(|r| format!("?release={r}")).unwrap_or_default();
            get(&node, &format!("/api/v1/dictionary/{line}/sets/{set}/codes/{}{at}", percent(&code)))?;
        }
        Dict::Show { node, line } => get(&node, &format!("/api/v1/dictionary/{line}/releases"))?,
        Dict::Verify { node, line } => get(&node, &format!("/api/v1/dictionary/{line}/verify"))?,
        Dict::Status(node) => get(&node, "/api/v1/dictionary")?,
    }
    Ok(())
}

fn difference(node: &Node, a: &str, b: &str, line: &str) -> Result<Value, Error> {
    if let (Ok(from), Ok(to)) = (a.parse::<u64>(), b.parse::<u64>()) {
        return client(node)?.get(&format!("/api/v1/dictionary/{line}/diff?from={from}&to={to}"));
    }
    let blobs = MemoryBlobs::new();
    let open = |path: &str| -> Result<_, Error> {
        let mut file = std::io::Cursor::new(read(Path::new(path))?);
        Ok(jincai_dictionary::snapshot_of_csv("CSV", &mut file, &blobs)?)
    };
    Ok(json!(jincai_dictionary::compare(&open(a)?, &open(b)?)?))
}

/// Percent-encodes what is not unreserved in a URL (RFC 3986).
pub(crate) fn percent(text: &str) -> String {
    let one = |byte: u8| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(one).collect()
}

fn reconcile(node: &Node) -> Result<(), Error> {
    let value = client(node)?.get("/api/v1/collection/reconciliation")?;
    if node.json {
        show(&value, true);
    } else {
        let (parts, unequal) = (&value["parts"], &value["unequal"]);
        let bad: Vec<&Value> =
            value["lines"].as_array().into_iter().flatten().filter(|l| l["equal"] != json!(true)).collect();
        bad.iter().for_each(|line| say(&line.to_string()));
        say(&format!("{parts} partitions held against their sources' signed totals, {unequal} differ"));
    }
    if value["unequal"] == json!(0) { Ok(()) } else { Err(Error::Check("partitions differ from their sources".into())) }
}

fn sql(node: &Node, query: &str, format: Format) -> Result<(), Error> {
    let result = client(node)?.post_json("/api/v1/sql", &json!({ "query": query }))?;
    if format == Format::Json {
        show(&result, true);
        return Ok(());
    }
    let columns: Vec<String> =
        result["columns"].as_array().into_iter().flatten().map(|c| crate::output::plain(&c["name"])).collect();
    let rows: Vec<Vec<String>> = result["rows"].as_array().into_iter().flatten().map(cells).collect();
    if format == Format::Csv {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let wrong = |e: csv::Error| Error::Check(e.to_string());
        writer.write_record(&columns).map_err(wrong)?;
        rows.iter().try_for_each(|row| writer.write_record(row)).map_err(wrong)?;
        let bytes = writer.into_inner().map_err(|e| Error::Check(e.to_string()))?;
        say(String::from_utf8_lossy(&bytes).trim_end());
    } else {
        table(&columns, &rows);
    }
    Ok(())
}

fn cells(row: &Value) -> Vec<String> {
    row.as_array()
        .into_iter()
        .flatten()
        .map(|v| if v.is_null() { String::new() } else { crate::output::plain(v) })
        .collect()
}

fn envelope(command: Envelope) -> Result<(), Error> {
    match command {
        Envelope::Export { node, lane, sequence, out } => {
            let client = client(&node)?;
            let lanes = client.get("/api/v1/lanes")?;
            let found = lanes["outbound"].as_array().into_iter().flatten().find(|l| l["lane"] == json!(lane));
            let epoch = &found.ok_or_else(|| Error::Check(format!("no lane {lane} begins at this node")))?["epoch"];
            let (number, salt) = (&epoch["number"], epoch["salt"].as_str().unwrap_or_default());
            let lane = percent(&lane);
            let path = format!("/api/v1/evidence?lane={lane}&epoch={number}&salt={salt}&sequence={sequence}");
            let bytes = client.get_bytes(&path)?;
            std::fs::write(&out, &bytes).map_err(|source| Error::File { path: out.clone(), source })?;
            say(&format!("{} bytes of evidence in {}", bytes.len(), out.display()));
        }
        Envelope::Verify { file, root, json } => {
            let root = root.map(|r| r.parse()).transpose()?;
            let trusted = root.is_some();
            let report = verify_evidence(&read(&file)?, root)?;
            let value = json!({
                "verified": true,
                "root": report.root,
                "root_was_given": trusted,
                "lane": report.statement.lane.to_string(),
                "epoch": report.statement.epoch.to_string(),
                "sealed_at": report.statement.sealed_at,
                "id": report.attributes.id,
                "source": report.attributes.source,
                "type": report.attributes.kind,
                "subject": report.attributes.subject,
                "payload_bytes": report.payload.as_ref().map(Vec::len),
                "payload_sha256": report.payload.as_ref().map(|p| jincai_crypto::sha256(p)),
            });
            show(&value, json);
            if !trusted {
                complain("compare the root with the fingerprint you trust, or give it with --root");
            }
        }
    }
    Ok(())
}

fn journal_verify(node: &Node) -> Result<(), Error> {
    let config = Config::load(&node.config)?;
    let disk = DirDisk::open(&config.file("journal"))?;
    let report = jincai_journal::verify(&disk, &DirBlobs::open(&config.file("blobs"))?)?;
    let show_damage = |damage: &[Quarantine]| -> Vec<Value> {
        damage.iter().map(|d| json!({ "segment": d.segment, "position": d.position, "reason": d.reason })).collect()
    };
    let whole = report.damage.is_empty() && report.chain_whole;
    let sound = whole && report.covered.is_empty() && report.damaged_files.is_empty();
    let value = json!({
        "segments": report.segments, "commits": report.commits, "records": report.records, "bytes": report.bytes,
        "last": report.last, "chain_whole": report.chain_whole, "clean": report.clean,
        "damage": show_damage(&report.damage),
        "snapshot_through": report.base.map(|base| base.through), "records_carried": report.carried,
        "files": report.files, "damaged_files": report.damaged_files, "damage_covered": show_damage(&report.covered),
    });
    show(&value, node.json);
    if sound {
        Ok(())
    } else {
        Err(Error::Check("the journal is damaged; «jincai journal repair» mends it from a backup".into()))
    }
}

fn journal_repair(node: &Node, from: &Path) -> Result<(), Error> {
    let done = crate::backup::mend(&Config::load(&node.config)?, from)?;
    let segments: Vec<String> = done.segments.iter().map(|segment| format!("{segment:016x}")).collect();
    show(&json!({ "segments": segments, "files": done.files }), node.json);
    if done.segments.is_empty() && done.files.is_empty() && !node.json {
        say("nothing was damaged");
    }
    Ok(())
}

/// Takes a backup of the running node, and reads it again before it gets its name.
fn backup(node: &Node, out: &Path) -> Result<(), Error> {
    let unfinished = out.with_extension("unfinished");
    let file = |source| Error::File { path: unfinished.clone(), source };
    let mut options = std::fs::OpenOptions::new();
    let mut target = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(file)?;
    client(node)?.download("/api/v1/backup", &mut target, &mut |bytes| progress(&format!("{} MiB", bytes >> 20)))?;
    progress_done();
    target.sync_all().map_err(file)?;
    let manifest = crate::backup::unpack(&unfinished, None)?;
    std::fs::rename(&unfinished, out).map_err(file)?;
    let bytes = out.metadata().map_err(file)?.len();
    let value = json!({
        "file": out, "bytes": bytes, "authority": manifest.authority, "restorable_from_record": manifest.through,
        "last": manifest.last, "time": manifest.time,
    });
    show(&value, node.json);
    Ok(())
}

fn set_back(wanted: &Restore) -> Result<(), Error> {
    let config = Config::load(&wanted.node.config)?;
    if wanted.accept {
        return post(&wanted.node, "/api/v1/restore/acceptance");
    }
    let point = match (wanted.record, wanted.time) {
        (Some(record), _) => Point::Record(record),
        (None, Some(time)) => Point::Time(time),
        (None, None) => Point::End,
    };
    let done = match &wanted.from {
        Some(path) => restore(&config, From::Backup(path, point), wanted.set_aside)?,
        None => restore(&config, From::BeforeDamage, true)?,
    };
    show(&json!({ "last": done.last, "time": done.time }), wanted.node.json);
    if !wanted.node.json {
        say("Next: jincai run. The node opens a new epoch, asks its neighbours for what it has forgotten,");
        say("and takes nothing new until they have answered (status: catching_up).");
    }
    Ok(())
}

/// Runs worlds on all processors; with their traces on one, so that these stand in order.
fn worlds(options: &Options, seeds: RangeInclusive<u64>) -> Summary {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let seeds = Mutex::new(seeds);
    let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        jincai_simulation::run(options, std::iter::from_fn(next), |seed, report| {
            report.lines.iter().for_each(|line| say(line));
            progress(&format!("seed {seed}: {} messages applied, {} faults", report.applied, report.faults.total()));
        })
    };
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..if options.trace { 1 } else { processors }).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(part) => summary.add(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    summary
}

fn seeds_of(seeds: &str) -> Result<RangeInclusive<u64>, Error> {
    let wrong = |what: &str| Error::Check(what.to_owned());
    let (first, last) = seeds.split_once("..").ok_or_else(|| wrong("--seeds A..B is wanted"))?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong("--seeds A..B: whole numbers are wanted"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong("--seeds A..B: no seed lies between them"));
    }
    Ok(first..=last)
}

fn simulate(
    (nodes, days): (usize, Option<u64>),
    seeds: RangeInclusive<u64>,
    faults: &str,
    trace: bool,
    json: bool,
) -> Result<(), Error> {
    let wrong = |what: &str| Error::Check(what.to_owned());
    if nodes > 60 || days.is_some() {
        if faults != "all" || trace {
            return Err(wrong("a country has faults of its own and no trace: leave --faults and --trace out"));
        }
        return country::simulate((nodes, days.unwrap_or(31)), seeds, json);
    }
    if nodes < 3 {
        return Err(wrong("--nodes 3 to 60 are wanted, or up to 4000 for a country"));
    }
    let faults = FaultSet::parse(faults).map_err(|error| wrong(&format!("--faults: {error}")))?;
    let options = Options { nodes, faults, trace, ..Options::default() };
    let summary = worlds(&options, seeds);
    progress_done();
    let faults: serde_json::Map<String, Value> =
        summary.faults.iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
    let broken: Vec<Value> = summary.broken.iter().map(|b| json!({ "seed": b.seed, "what": b.what })).collect();
    let value = json!({
        "worlds": summary.worlds, "messages_applied": summary.applied, "bytes": summary.bytes,
        "seals": "real, from seeded randomness",
        "faults": faults, "broken": broken,
    });
    show(&value, json);
    if let Some(first) = summary.broken.first().filter(|_| !trace) {
        complain(&format!("the last that happened in the world of seed {}:", first.seed));
        first.lines.iter().for_each(|line| complain(line));
    }
    let seeds: BTreeSet<u64> = summary.broken.iter().map(|broken| broken.seed).collect();
    for seed in seeds {
        complain(&format!("repeat with: {}", jincai_simulation::command(&options, seed)));
    }
    if !summary.broken.is_empty() || summary.applied == 0 {
        return Err(wrong("an invariant broke, or nothing was applied"));
    }
    Ok(())
}
