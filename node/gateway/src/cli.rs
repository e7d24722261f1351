//! The command line's words.

use clap::{Args, Parser, Subcommand, ValueEnum};
use jincai_simulation::FaultSet;
use std::path::PathBuf;

/// A gateway node for public finance: dictionary releases down, standard-storage data up.
#[derive(Parser)]
#[command(name = "jincai", version, about, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which node, and in which form to print.
#[derive(Args, Clone)]
pub(crate) struct Node {
    /// The node's configuration.
    #[arg(long, short, default_value = "jincai.toml", global = true)]
    pub(crate) config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make keys, the API token and the request to the superior.
    Init(Node),
    /// Enrol a node with its superior.
    #[command(subcommand)]
    Enrol(Enrol),
    /// Run the node until SIGTERM.
    Run(Node),
    /// Show what the node does.
    Status(Node),
    /// Say what is wrong with a node, running or not.
    Doctor(Node),
    /// Look at a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The data dictionary.
    #[command(subcommand)]
    Dict(Dict),
    /// Collection specs.
    #[command(subcommand)]
    Spec(SpecCommand),
    /// Write rows of a CSV file into a table.
    Load {
        #[command(flatten)]
        node: Node,
        /// The table.
        table: String,
        /// The CSV file.
        file: PathBuf,
        /// all: one bad row refuses the file; good: good rows are written, bad ones are named.
        #[arg(long, default_value = "all")]
        mode: String,
    },
    /// Collection upward.
    #[command(subcommand)]
    Collect(Collect),
    /// Ask the node's tables.
    Sql {
        #[command(flatten)]
        node: Node,
        /// One SELECT statement.
        query: String,
        /// The form of the answer.
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Send a message to an authority, or to every one of a group.
    Send(SendArgs),
    /// The messages that came here, for whoever reads them.
    Inbox(InboxArgs),
    /// Neighbours and what is in custody for them.
    #[command(subcommand)]
    Queue(Queue),
    /// Where a message is and what became of it, at every node on its way.
    Trace(TraceArgs),
    /// Files that are sent to an authority, and those that have come.
    #[command(subcommand)]
    File(File),
    /// Exported messages.
    #[command(subcommand)]
    Envelope(Envelope),
    /// The journal of a node that is not running.
    #[command(subcommand)]
    Journal(Journal),
    /// Write a backup of the running node to a file; it holds the node's keys.
    Backup {
        #[command(flatten)]
        node: Node,
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Lay a backup back, for a node that is not running.
    Restore(Restore),
    /// Four nodes, real data, a kill on the way; every step checked.
    Demo {
        /// Leave the nodes running at the end.
        #[arg(long)]
        keep: bool,
        /// Where to put configurations, data and logs (default: a new directory below the system's temporary one).
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Judge another implementation of the protocol from outside (docs/kit.md).
    #[command(subcommand)]
    Kit(Kit),
    /// Measure; the same code path as production, fsync included.
    #[command(subcommand)]
    Bench(Bench),
    /// Simulate worlds of nodes under faults, or the whole country for a month, by seed.
    Sim(SimArgs),
}
/// What to simulate.
#[derive(Args)]
pub(crate) struct SimArgs {
    /// Nodes in a world, 3 to 60; more are a country, up to 4000 (3220: ministry, 31 provinces, 330 cities, 2858
    /// counties).
    #[arg(long, default_value_t = 7)]
    pub(crate) nodes: usize,
    /// Virtual days of a country, 1 to 366 (31 if left out); without it a world of up to 60 nodes works for 40 virtual
    /// seconds.
    #[arg(long)]
    pub(crate) days: Option<u64>,
    /// Instead: so many senders, 1 to 5000, come back to one receiver with a week's backlog; with the credit that it
    /// grants, and with fixed windows.
    #[arg(long, conflicts_with_all = ["nodes", "days", "faults", "trace"])]
    pub(crate) surge: Option<usize>,
    /// Instead: one release comes down to so many counties, 1 to 5000, below 31 provinces and 330 cities at 2850; what the
    /// links of each level carried of it.
    #[arg(long, conflicts_with_all = ["nodes", "days", "faults", "trace", "surge"])]
    pub(crate) release: Option<usize>,
    /// Codes in that release, 1 to 1000000.
    #[arg(long, default_value_t = 662_853, requires = "release")]
    pub(crate) codes: u64,
    /// Seeds A..B, both included.
    #[arg(long)]
    pub(crate) seeds: String,
    #[arg(long, default_value = "all", help = format!("Which faults: {}, separated by commas", FaultSet::names()))]
    pub(crate) faults: String,
    /// Print everything that happens in each world, line by line.
    #[arg(long, conflicts_with = "json")]
    pub(crate) trace: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[group(id = "what", required = true, args = ["from", "before_damage", "accept"])]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) node: Node,
    /// The backup.
    #[arg(long)]
    pub(crate) from: Option<PathBuf>,
    /// Only up to this record.
    #[arg(long, requires = "from", conflicts_with = "time")]
    pub(crate) record: Option<u64>,
    /// Only up to this time, such as 2026-11-24T08:00:00+08:00.
    #[arg(long, requires = "from", value_parser = rfc3339)]
    pub(crate) time: Option<u64>,
    /// Set the journal and the files that are there aside instead of refusing.
    #[arg(long, requires = "from")]
    pub(crate) set_aside: bool,
    /// Without a backup: set a damaged journal back to before its first damage.
    #[arg(long)]
    pub(crate) before_damage: bool,
    /// At a running node that was restored: go on without the neighbours that have not answered.
    #[arg(long)]
    pub(crate) accept: bool,
}

/// Milliseconds since 1970 of a time as RFC 3339 writes it.
fn rfc3339(text: &str) -> Result<u64, String> {
    let time =
        chrono::DateTime::parse_from_rfc3339(text).map_err(|e| format!("{e}; as in 2026-11-24T08:00:00+08:00"))?;
    u64::try_from(time.timestamp_millis()).map_err(|_| "a time after 1970 is wanted".into())
}

#[derive(Subcommand)]
pub(crate) enum Enrol {
    /// At the superior: turn an inferior's request into a bundle.
    Sign {
        #[command(flatten)]
        node: Node,
        /// The inferior's enrolment.request.
        #[arg(long)]
        request: PathBuf,
        /// Where to put the bundle.
        #[arg(long)]
        out: PathBuf,
    },
    /// At the inferior: take the bundle in.
    Accept {
        #[command(flatten)]
        node: Node,
        /// The superior's bundle.
        bundle: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration and print it with its defaults.
    Check(Node),
}

#[derive(Subcommand)]
pub(crate) enum Dict {
    /// Put a CSV file (code,name,level,parent) into the draft as a code set.
    Import {
        #[command(flatten)]
        node: Node,
        /// The code set.
        set: String,
        /// The file.
        file: PathBuf,
        /// The set's name for people.
        #[arg(long, default_value = "")]
        name: String,
        /// The line.
        #[arg(long, default_value = "national")]
        line: String,
    },
    /// Make the draft the next release and send it down.
    Release {
        #[command(flatten)]
        node: Node,
        /// From which day it counts, YYYY-MM-DD.
        #[arg(long)]
        effective_from: String,
        /// A note for people.
        #[arg(long, default_value = "")]
        note: String,
        /// Why, if it removes much.
        #[arg(long)]
        reason: Option<String>,
        /// The line.
        #[arg(long, default_value = "national")]
        line: String,
    },
    /// Differences of two releases, or of two CSV files.
    Diff {
        #[command(flatten)]
        node: Node,
        /// A release number or a CSV file.
        a: String,
        /// A release number or a CSV file.
        b: String,
        /// The line.
        #[arg(long, default_value = "national")]
        line: String,
    },
    /// One code.
    Get {
        #[command(flatten)]
        node: Node,
        /// The code set.
        set: String,
        /// The code.
        code: String,
        /// As of which release (default: the last).
        #[arg(long)]
        release: Option<u64>,
        /// The line.
        #[arg(long, default_value = "national")]
        line: String,
    },
    /// The releases held here.
    Show {
        #[command(flatten)]
        node: Node,
        /// The line.
        #[arg(long, default_value = "national")]
        line: String,
    },
    /// Compute the last release's root again from every code.
    Verify {
        #[command(flatten)]
        node: Node,
        /// The line.
        #[arg(long, default_value = "national")]
        line: String,
    },
    /// The lines, their release numbers and root hashes.
    Status(Node),
}

#[derive(Subcommand)]
pub(crate) enum SpecCommand {
    /// Release a spec (a TOML file) to every authority below.
    Release {
        #[command(flatten)]
        node: Node,
        /// The file.
        file: PathBuf,
    },
    /// The specs in force here.
    List(Node),
}

#[derive(Subcommand)]
pub(crate) enum Collect {
    /// Hand changed partitions over now.
    Run(Node),
    /// Partitions, their versions and where they stand.
    Status(Node),
    /// Hold every collected partition against what its source signed.
    Reconcile(Node),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// JSON.
    Json,
}

/// Which message to look for.
#[derive(Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) node: Node,
    /// The message's id.
    pub(crate) id: String,
    /// Which member of a group, if it went to one.
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// How long to wait for the answers of other nodes.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

/// What to send, where, and from whom.
#[derive(Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    pub(crate) node: Node,
    /// The address: DESTINATION[/YEAR[/SYSTEM]]. A destination is an authority, or a group: below:A, superiors:A,
    /// provinces:A, cities:A, counties:A.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: String,
    /// The business system that sends: YEAR/SYSTEM.
    #[arg(long, value_name = "YEAR/SYSTEM")]
    pub(crate) from: Option<String>,
    /// The message's id: never used before by this sender.
    #[arg(long)]
    pub(crate) id: String,
    /// How urgent it is: control, interactive, record, bulk.
    #[arg(long, default_value = "record")]
    pub(crate) class: String,
    /// What it is about.
    #[arg(long, default_value = "")]
    pub(crate) subject: String,
    /// The message.
    pub(crate) text: String,
}

/// Who reads, and how much.
#[derive(Args)]
pub(crate) struct InboxArgs {
    #[command(flatten)]
    pub(crate) node: Node,
    /// Only what is for this reader, such as «*/2026/budget»: DESTINATION[/YEAR[/SYSTEM]], with * for any.
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// Only what came after the message of this number.
    #[arg(long, default_value_t = 0)]
    pub(crate) after: u64,
    /// At most so many (up to 1,000).
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u64,
}

#[derive(Subcommand)]
pub(crate) enum File {
    /// Send a file.
    Send {
        #[command(flatten)]
        node: Node,
        /// The file.
        path: PathBuf,
        /// To which authority.
        #[arg(long)]
        to: String,
        /// Its name there (default: its own).
        #[arg(long)]
        name: Option<String>,
        /// The transfer's id; sent again under the same id, a file goes once.
        #[arg(long)]
        id: Option<String>,
        /// Wait until its destination has it.
        #[arg(long)]
        wait: bool,
    },
    /// Files that go from here and come to here.
    List {
        #[command(flatten)]
        node: Node,
        /// Only those: in or out.
        #[arg(long)]
        direction: Option<String>,
        /// Only those: offered, sending, delivered, waiting, receiving, whole or failed.
        #[arg(long)]
        state: Option<String>,
        /// Only those to or from this authority.
        #[arg(long)]
        peer: Option<String>,
    },
    /// How far a file is, and what it waits for.
    Show(FileId),
    /// Write a file that has come, or was sent, to a path.
    Get {
        #[command(flatten)]
        file: FileId,
        /// The path; nothing is overwritten.
        path: PathBuf,
    },
    /// Give a transfer up that is under way, or remove a file whose transfer is over.
    Drop(FileId),
}

/// Which file.
#[derive(Args)]
pub(crate) struct FileId {
    #[command(flatten)]
    pub(crate) node: Node,
    /// Its id.
    pub(crate) id: String,
    /// From which authority it comes, if several have sent one under this id.
    #[arg(long)]
    pub(crate) from: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Queue {
    /// What is in custody, per neighbour and lane.
    List(Node),
    /// The batches in custody for a neighbour, and their messages.
    Show {
        #[command(flatten)]
        node: Node,
        /// The neighbour.
        peer: String,
        /// Only this lane, such as «370502000>000000000/record».
        #[arg(long)]
        lane: Option<String>,
        /// At most so many batches (up to 1,000).
        #[arg(long, default_value_t = 100)]
        limit: u64,
    },
    /// Send what is in custody for a neighbour again, now.
    Retry {
        #[command(flatten)]
        node: Node,
        /// The neighbour.
        peer: String,
        /// Only this lane.
        #[arg(long)]
        lane: Option<String>,
    },
    /// Hold a neighbour or a lane: nothing of it moves on from here until it is released.
    Hold(HoldArgs),
    /// Release a neighbour or a lane that is held, after a fork too.
    Release(HoldArgs),
    /// What operators hold here.
    Holds(Node),
    /// Lanes that begin and end here.
    Lanes(Node),
    /// Messages refused here for their meaning.
    Dead(Node),
    /// Apply a dead letter after all, now that its cause is mended.
    Replay {
        #[command(flatten)]
        node: Node,
        /// The lane (see «queue dead»).
        lane: String,
        /// The message's number.
        number: u64,
        #[command(flatten)]
        person: Person,
    },
    /// Drop a dead letter, what a lane to here waits with, or messages of a lane that begins here.
    #[command(group(clap::ArgGroup::new("which").required(true).args(["through", "dead", "waiting"])))]
    Drop {
        #[command(flatten)]
        node: Node,
        /// The lane.
        lane: String,
        /// At its origin: give up what its destination has not signed for, up to this message.
        #[arg(long, value_name = "NUMBER")]
        through: Option<u64>,
        /// At its destination: drop this dead letter.
        #[arg(long, value_name = "NUMBER")]
        dead: Option<u64>,
        /// At its destination: refuse the message that it waits with.
        #[arg(long)]
        waiting: bool,
        #[command(flatten)]
        person: Person,
    },
}

/// What to hold or release.
#[derive(Args)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    pub(crate) node: Node,
    #[command(flatten)]
    pub(crate) what: What,
    #[command(flatten)]
    pub(crate) person: Person,
}

/// A neighbour or a lane.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct What {
    /// The neighbour.
    #[arg(long)]
    pub(crate) peer: Option<String>,
    /// The lane, such as «370502000>000000000/record».
    #[arg(long)]
    pub(crate) lane: Option<String>,
}

/// Who decides, and why: both are recorded.
#[derive(Args)]
pub(crate) struct Person {
    /// Your name.
    #[arg(long, default_value = "operator")]
    pub(crate) by: String,
    /// Why.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Subcommand)]
pub(crate) enum Envelope {
    /// Export one of our messages as evidence.
    Export {
        #[command(flatten)]
        node: Node,
        /// The lane, such as «370502000>000000000/record» (see «queue lanes»).
        lane: String,
        /// The message's number on the lane.
        sequence: u64,
        /// Where to put it.
        #[arg(long)]
        out: PathBuf,
    },
    /// Verify evidence offline.
    Verify {
        /// The file.
        file: PathBuf,
        /// The fingerprint of the root to trust; without it the fingerprint found is printed for you to compare.
        #[arg(long)]
        root: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum Journal {
    /// Read everything and say what is damaged; nothing is written.
    Verify(Node),
    /// Put back what is damaged or missing, from a backup.
    Repair {
        #[command(flatten)]
        node: Node,
        /// The backup.
        #[arg(long)]
        from: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum Kit {
    /// Run cases against a command, each with a directory and a process of its own.
    Run {
        /// The command; it gets the path of its configuration as its last argument.
        #[arg(long, value_name = "COMMAND")]
        sut: String,
        /// Only this case; may be given several times.
        #[arg(long = "case", value_name = "NAME")]
        cases: Vec<String>,
        /// Where to put the cases' directories (default: a temporary place, kept if a case fails).
        #[arg(long)]
        dir: Option<PathBuf>,
        /// How many cases at a time.
        #[arg(long, default_value_t = 4)]
        jobs: usize,
        /// How long to wait for each thing that must come, in seconds.
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        patience: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run this program's own core as the command that is judged.
    Node {
        /// Its configuration, as «kit run» writes it.
        config: PathBuf,
    },
    /// List the cases.
    Cases {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Durable, signed, encrypted 1 KiB messages from one process to another: 1,024 producers, each of which hands over its
    /// next message when the last is durable here, unless another load is asked for.
    Relay {
        /// The transport: quic.
        #[arg(long, default_value = "quic")]
        transport: String,
        /// Messages.
        #[arg(long, default_value_t = 200_000)]
        messages: u64,
        /// So many messages a second, whatever is under way; latency counts from the time at which each was due.
        #[arg(long, conflicts_with = "in_flight")]
        rate: Option<u64>,
        /// So many messages under way at most: the next is handed over when one is durable at the other node.
        #[arg(long)]
        in_flight: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A file from one process's store to another's, durable and checked at both ends.
    Bulk {
        /// Its size; an equal one is sent first, to a tenth of it, so that nothing is measured cold.
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
        /// Below which directory the nodes keep their data (default: the system's temporary one).
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What a node with one link costs when nothing happens: memory, processor, network.
    Idle {
        /// Seconds before the measurement, for what a start brings along.
        #[arg(long, default_value_t = 60)]
        settle: u64,
        /// Seconds to measure.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What links cost the node that has them: memory, processor, messages a second from so many inferiors together.
    Links {
        /// How many links, each in a run of its own.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1_000])]
        links: Vec<u64>,
        /// Messages of 1 KiB, of all inferiors together.
        #[arg(long, default_value_t = 100_000)]
        messages: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Control messages on a narrow line, alone and beside a file that fills it.
    Priorities {
        /// Megabits a second.
        #[arg(long, default_value_t = 100)]
        mbits: u64,
        /// Milliseconds there and back.
        #[arg(long, default_value_t = 20)]
        rtt: u64,
        /// Control messages in each of both measurements.
        #[arg(long, default_value_t = 300)]
        messages: u64,
        /// Bytes of the file.
        #[arg(long, default_value_t = 2_000_000_000)]
        bytes: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// 100-byte messages queued for a neighbour that is away, a restart with them, their delivery.
    Queue {
        /// Messages.
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
        /// Below which directory the nodes keep their data (default: the system's temporary one).
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
