//! The demo's nodes: real processes, each from its own file and data directory.

use crate::client::Client;
use crate::clock;
use crate::config::Config;
use crate::enrol;
use crate::error::{Error, read};
use jincai_types::AuthorityId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The configuration files, as they stand in conf/demo: name and text.
const FILES: [(&str, &str); 4] = [
    ("ministry", include_str!("../../../../conf/demo/ministry.toml")),
    ("province", include_str!("../../../../conf/demo/province.toml")),
    ("county-370502000", include_str!("../../../../conf/demo/county-370502000.toml")),
    ("county-370522000", include_str!("../../../../conf/demo/county-370522000.toml")),
];

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One node of the demo.
pub(crate) struct DemoNode {
    pub(crate) name: &'static str,
    pub(crate) authority: AuthorityId,
    pub(crate) file: PathBuf,
    pub(crate) client: Client,
    child: Option<Child>,
}

/// Writes the configurations with free ports and enrols every node with its superior.
pub(crate) fn prepare(directory: &Path) -> Result<Vec<DemoNode>, Error> {
    let mut texts: Vec<(&str, String)> = FILES.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    for number in 0..texts.len() {
        let (http, quic) = (free_tcp()?, free_udp()?);
        for (_, text) in &mut texts {
            *text = text.replace(&format!("127.0.0.1:{}\"", 7480 + number), &format!("127.0.0.1:{http}\""));
            *text = text.replace(&format!("127.0.0.1:{}\"", 7443 + number), &format!("127.0.0.1:{quic}\""));
        }
    }
    let mut configs = Vec::new();
    for (name, text) in texts {
        let file = directory.join(format!("{name}.toml"));
        std::fs::write(&file, text).map_err(|source| Error::File { path: file.clone(), source })?;
        let config = Config::load(&file)?;
        enrol::init(&config)?;
        configs.push((name, file, config));
    }
    for number in 1..configs.len() {
        let superior = if number == 1 { 0 } else { 1 };
        let (below, above) = (&configs[number].2, &configs[superior].2);
        let bundle = below.file("enrolment.bundle");
        enrol::sign_request(above, &below.file("enrolment.request"), &bundle)?;
        enrol::accept(below, &bundle)?;
    }
    configs.into_iter().map(|(name, file, config)| DemoNode::of(name, file, &config)).collect()
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

pub(crate) fn free_tcp() -> Result<u16, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(system("a free TCP port"))?;
    Ok(listener.local_addr().map_err(system("a free TCP port"))?.port())
}

pub(crate) fn free_udp() -> Result<u16, Error> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(system("a free UDP port"))?;
    Ok(socket.local_addr().map_err(system("a free UDP port"))?.port())
}

impl DemoNode {
    /// The node of a configuration file, enrolled and not running.
    pub(crate) fn of(name: &'static str, file: PathBuf, config: &Config) -> Result<Self, Error> {
        let token = String::from_utf8_lossy(&read(&config.file("token"))?).trim().to_owned();
        let client = Client::new(&config.http.listen.to_string(), token);
        Ok(Self { name, authority: config.authority, file, client, child: None })
    }

    /// Starts the process and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        let program = std::env::current_exe().map_err(system("this program's path"))?;
        let log = self.file.with_extension("log");
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = open().map_err(|source| Error::File { path: log.clone(), source })?;
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(&self.file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(system("a node's process"))?;
        self.child = Some(child);
        let started = clock::instant();
        loop {
            match self.client.get("/readyz") {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > PATIENCE => return Err(error),
                Err(_) => {}
            }
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(Error::Check(format!("{} ended at once ({status}); see {}", self.name, log.display())));
            }
            pause();
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.as_ref()?.id()).ok()?)
    }

    /// Resident and anonymous memory in KiB (VmRSS, RssAnon).
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some((field("VmRSS:")?, field("RssAnon:")?))
    }

    /// The processor time that the process has used.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        cpu(self.child.as_ref()?.id())
    }

    /// SIGKILL: nothing is finished.
    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait().map(|_| ())).map_err(system("killing a node"))?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until the process has ended well.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill_process(pid, Signal::TERM).map_err(|e| system("stopping a node")(e.into()))?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let status = child.wait().map_err(system("waiting for a node"))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::Check(format!("{} ended with {status} on SIGTERM", self.name)))
        }
    }

    /// Leaves the process running.
    pub(crate) fn keep(&mut self) {
        self.child = None;
    }

    /// The node's status.
    pub(crate) fn status(&self) -> Result<Value, Error> {
        self.client.get("/api/v1/status")
    }
}

impl Drop for DemoNode {
    fn drop(&mut self) {
        // The demo failed or ended: nothing may stay behind.
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The processor time that a process has used, in all its threads and in the kernel for it.
pub(crate) fn cpu(process: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses; utime and stime are fields 14 and 15, in hundredths of a second.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// A short pause between two looks at a node.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(25));
}

/// Looks until something is so; says what was waited for if it takes too long.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>, Error>) -> Result<T, Error> {
    let started: Instant = clock::instant();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::Check(format!("waited {} s for {what}", PATIENCE.as_secs())));
        }
        pause();
    }
}
