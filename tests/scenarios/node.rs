//! Starting, asking and stopping real nodes.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the program to its end.
pub(crate) fn jincai(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jincai")).args(arguments).stdin(Stdio::null()).output().expect("the program runs")
}

/// Looks until something is there; a limit ends the wait, and nothing is assumed about how long it takes.
#[expect(clippy::disallowed_methods, reason = "a test's patience is real time")]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// One node: its configuration, its process.
pub(crate) struct Node {
    file: PathBuf,
    http: u16,
    token: String,
    child: Option<Child>,
    /// The network namespace that it lives in, if not ours.
    namespace: Option<String>,
    _directory: Option<TempDir>,
}

/// Moves this thread into a network namespace.
pub(crate) fn enter(namespace: &str) {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    let file = std::fs::File::open(Path::new("/run/netns").join(namespace)).expect("the namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("entered");
}

impl Node {
    /// A ministry of its own, running.
    pub(crate) fn ministry() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut node = Self::prepare(directory.path(), "ministry", "000000000", "");
        node._directory = Some(directory);
        node.start();
        node
    }

    /// A ministry of its own, running, with more keys for the configuration's section `journal`.
    pub(crate) fn ministry_with(journal: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut node = Self::prepare(directory.path(), "ministry", "000000000", journal);
        node._directory = Some(directory);
        node.start();
        node
    }

    /// What the process has logged since its start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.file.with_extension("log")).unwrap_or_default()
    }

    /// A ministry whose data directory is this one; not running.
    pub(crate) fn ministry_in(data: &Path) -> Self {
        Self::ministry_on(data, "")
    }

    /// As [`Self::ministry_in`], with more keys for the configuration's section `journal`.
    pub(crate) fn ministry_on(data: &Path, journal: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut node = Self::prepare_in(directory.path(), "ministry", data, "000000000", journal);
        node._directory = Some(directory);
        node
    }

    pub(crate) fn prepare(directory: &Path, name: &str, authority: &str, links: &str) -> Self {
        Self::prepare_in(directory, name, &directory.join(name), authority, links)
    }

    fn prepare_in(directory: &Path, name: &str, data: &Path, authority: &str, links: &str) -> Self {
        let http = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let file = directory.join(format!("{name}.toml"));
        let text = format!(
            "authority = \"{authority}\"\ndata = \"{}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n[journal]\nsegment_mib = 4\n{links}",
            data.display()
        );
        std::fs::write(&file, text).expect("written");
        let mut node = Self { file, http, token: String::new(), child: None, namespace: None, _directory: None };
        let init = node.command(&["init"]);
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        node.token = std::fs::read_to_string(data.join("token")).expect("a token");
        node
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Runs a command of the program with this node's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let config = self.file.to_str().expect("a plain path");
        jincai(&[arguments, &["--config", config]].concat())
    }

    /// As [`Self::command`], with JSON out.
    pub(crate) fn command_json(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts the process and waits until it is ready.
    pub(crate) fn start(&mut self) {
        match self.namespace.clone() {
            None => self.spawn(&mut Command::new(env!("CARGO_BIN_EXE_jincai"))),
            Some(name) => self.start_below("ip", &["netns", "exec", &name]),
        }
        self.wait_until_ready();
    }

    /// Starts the process below another program, which gets it as its last arguments; does not wait.
    pub(crate) fn start_below(&mut self, program: &str, arguments: &[&str]) {
        self.spawn(Command::new(program).args(arguments).arg(env!("CARGO_BIN_EXE_jincai")));
    }

    /// Starts the process with a command that ends in the program's name.
    pub(crate) fn spawn(&mut self, command: &mut Command) {
        let log = std::fs::File::create(self.file.with_extension("log")).expect("a log");
        command.args(["run", "--config"]).arg(&self.file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the node starts"));
    }

    /// Waits until the API says that the node is ready.
    pub(crate) fn wait_until_ready(&mut self) {
        wait_for("the node to be ready", || {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("its state"));
            let log = || std::fs::read_to_string(self.file.with_extension("log")).unwrap_or_default();
            assert!(ended.is_none(), "it ended at once: {}", log());
            self.try_request("GET", "/readyz", None, "").filter(|(status, _)| *status == 200)
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("killed");
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        wait_for("the node to end", || child.try_wait().expect("its state"))
    }

    /// Whether the process does not run any more; it may have left its exit status behind.
    pub(crate) fn is_gone(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("its state").is_some())
    }

    /// SIGKILL for a process that runs below another one, and for that.
    pub(crate) fn kill_tree(&mut self) {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children: Vec<_> =
            children.split_whitespace().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)).collect();
        for child in &children {
            // An error means that it has ended meanwhile.
            let _ended = rustix::process::kill_process(*child, rustix::process::Signal::KILL).is_err();
        }
        self.kill();
        // Nobody waits for them: until they are gone they hold their lock.
        wait_for("the processes below to be gone", || {
            children.iter().all(|child| rustix::process::test_kill_process(*child).is_err()).then_some(())
        });
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    }

    /// SIGTERM; it must end well.
    pub(crate) fn stop(&mut self) {
        self.terminate();
        let status = self.child.take().and_then(|mut child| child.wait().ok()).expect("ended");
        assert!(
            status.success(),
            "{status}: {}",
            std::fs::read_to_string(self.file.with_extension("log")).unwrap_or_default()
        );
    }

    fn try_request(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Option<(u16, Value)> {
        let Some(namespace) = &self.namespace else { return self.request_here(method, path, token, body) };
        let there = || {
            enter(namespace);
            self.request_here(method, path, token, body)
        };
        std::thread::scope(|scope| scope.spawn(there).join().expect("no panic"))
    }

    fn request_here(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Option<(u16, Value)> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.http));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let kind = if body.starts_with('{') { "application/json" } else { "text/csv" };
        let request = request.header("content-type", kind).body(body.to_owned()).expect("a request");
        let mut response = agent.run(request).ok()?;
        let text = response.body_mut().read_to_string().ok()?;
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Some((response.status().as_u16(), value))
    }

    /// Any request.
    pub(crate) fn request(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, Value) {
        let answer = self.try_request(method, path, token, body);
        answer.unwrap_or_else(|| panic!("{method} {path}: no answer; its log: {}", self.log()))
    }

    /// POST with the token; `None` if there was no answer.
    pub(crate) fn try_post(&self, path: &str, body: &str) -> Option<(u16, Value)> {
        self.try_request("POST", path, Some(&self.token), body)
    }

    /// GET with the token; `None` if there was no answer.
    pub(crate) fn try_get(&self, path: &str) -> Option<(u16, Value)> {
        self.try_request("GET", path, Some(&self.token), "")
    }

    /// POST with the token.
    pub(crate) fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.request("POST", path, Some(&self.token), body)
    }

    /// GET with the token; it must succeed.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, value) = self.request("GET", path, Some(&self.token), "");
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// GET of text.
    pub(crate) fn text(&self, path: &str) -> String {
        self.request("GET", path, Some(&self.token), "").1.as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A ministry and one province, linked and enrolled, running.
pub(crate) struct Pair {
    pub(crate) ministry: Node,
    pub(crate) province: Node,
    _directory: TempDir,
}

impl Pair {
    /// Over QUIC, with the province's data in a directory of its own and more keys for its section `journal`.
    pub(crate) fn over_quic_with(data: &Path, journal: &str) -> Self {
        Self::quic(Some(data), journal, 20)
    }

    /// Over QUIC, where silence is taken for death only after half an hour.
    pub(crate) fn over_patient_quic() -> Self {
        Self::quic(None, "", 600)
    }

    /// Over QUIC.
    pub(crate) fn over_quic() -> Self {
        Self::quic(None, "", 20)
    }

    /// Over QUIC, each in a network namespace of its own, on 10.99.0.1 and 10.99.0.2.
    pub(crate) fn apart(ministry: &str, province: &str) -> Self {
        let above = "[quic]\nkeep_alive_seconds = 5\nlisten = \"0.0.0.0:7000\"\n[[link]]\npeer = \"370000000\"\ntransport = \"quic\"\n";
        let below = "[quic]\nkeep_alive_seconds = 5\nlisten = \"0.0.0.0:7000\"\n[[link]]\npeer = \"000000000\"\ntransport = \"quic\"\naddress = \"10.99.0.1:7000\"\n";
        let mut pair = Self::enrolled(above, below, None);
        pair.ministry.namespace = Some(ministry.to_owned());
        pair.province.namespace = Some(province.to_owned());
        pair.start();
        pair.wait_until_linked();
        pair
    }

    fn quic(data: Option<&Path>, journal: &str, keep_alive: u64) -> Self {
        let port = || UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
        let (above, below) = (port(), port());
        let ministry =
            format!("[quic]\nlisten = \"127.0.0.1:{above}\"\n[[link]]\npeer = \"370000000\"\ntransport = \"quic\"\n");
        let province = format!(
            "{journal}[quic]\nlisten = \"127.0.0.1:{below}\"\nkeep_alive_seconds = {keep_alive}\n[[link]]\npeer = \"000000000\"\ntransport = \"quic\"\naddress = \"127.0.0.1:{above}\"\n"
        );
        let pair = Self::linked(&ministry, &province, data);
        pair.wait_until_linked();
        pair
    }

    fn wait_until_linked(&self) {
        wait_for("the link", || (self.ministry.get("/api/v1/links")["links"][0]["up"] == true).then_some(()));
        wait_for("the province's card", || {
            let known = self.ministry.get("/api/v1/status")["authorities"].as_array()?.len();
            (known == 2).then_some(())
        });
    }

    /// A second machine with a copy of the province's data, as an image that was cloned makes one; not running.
    pub(crate) fn twin_of_province(&self) -> Node {
        let data = self._directory.path().join("twin");
        let copied = Command::new("cp").arg("-a").arg(self._directory.path().join("province")).arg(&data).status();
        assert!(copied.expect("cp").success());
        let http = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let text = std::fs::read_to_string(&self.province.file).expect("read");
        let text = text.replace(&format!("127.0.0.1:{}\"", self.province.http), &format!("127.0.0.1:{http}\""));
        let text = text.replace("/province\"", "/twin\"");
        // Nobody dials it, so any port does.
        let quic = text.find("[quic]\nlisten = \"").expect("its address") + "[quic]\nlisten = \"".len();
        let end = quic + text[quic..].find('"').expect("closed");
        let file = self._directory.path().join("twin.toml");
        std::fs::write(&file, format!("{}127.0.0.1:0{}", &text[..quic], &text[end..])).expect("written");
        Node { file, http, token: self.province.token.clone(), child: None, namespace: None, _directory: None }
    }

    fn start(&mut self) {
        self.ministry.start();
        self.province.start();
    }

    /// Over two directories.
    pub(crate) fn over_files() -> Self {
        let link = |peer: &str, out: &str, back: &str| {
            format!("[[link]]\npeer = \"{peer}\"\ntransport = \"drop\"\noutgoing = \"{out}\"\nincoming = \"{back}\"\n")
        };
        Self::linked(&link("370000000", "down", "up"), &link("000000000", "up", "down"), None)
    }

    fn linked(ministry: &str, province: &str, data: Option<&Path>) -> Self {
        let mut pair = Self::enrolled(ministry, province, data);
        pair.start();
        pair
    }

    fn enrolled(ministry: &str, province: &str, data: Option<&Path>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["up", "down"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let ministry = Node::prepare(directory.path(), "ministry", "000000000", ministry);
        let data = data.map_or_else(|| directory.path().join("province"), Path::to_owned);
        let province = Node::prepare_in(directory.path(), "province", &data, "370000000", province);
        enrol(&ministry, &province, &data, directory.path());
        Self { ministry, province, _directory: directory }
    }
}

/// A ministry, a province below it and a county below that, linked and enrolled, running.
pub(crate) struct Chain {
    pub(crate) ministry: Node,
    pub(crate) province: Node,
    pub(crate) county: Node,
    _directory: TempDir,
}

impl Chain {
    /// Over QUIC; everybody knows everybody's card.
    pub(crate) fn over_quic() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let county = directory.path().join("county");
        Self::over_quic_with(directory, &county, "", "")
    }

    /// As [`Self::over_quic`], with the county's data in a directory of its own, more keys for the section `journal` of its
    /// configuration, and more sections for everybody's.
    pub(crate) fn over_quic_with(directory: TempDir, county: &Path, journal: &str, sections: &str) -> Self {
        let port = || UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
        let ports = [port(), port(), port()];
        let link = |peer: &str, port: Option<u16>| {
            let address = port.map(|port| format!("address = \"127.0.0.1:{port}\"\n")).unwrap_or_default();
            format!("[[link]]\npeer = \"{peer}\"\ntransport = \"quic\"\n{address}")
        };
        let quic = |at: usize| format!("[quic]\nlisten = \"127.0.0.1:{}\"\n", ports[at]);
        let ids = ["000000000", "370000000", "370502000"];
        let names = ["ministry", "province", "county"];
        let links =
            [link(ids[1], None), link(ids[0], Some(ports[0])) + &link(ids[2], None), link(ids[1], Some(ports[1]))];
        let data = [directory.path().join(names[0]), directory.path().join(names[1]), county.to_owned()];
        let prepare = |at: usize, journal: &str| {
            let more = [journal, &quic(at), &links[at], sections].concat();
            Node::prepare_in(directory.path(), names[at], &data[at], ids[at], &more)
        };
        let mut nodes = [prepare(0, ""), prepare(1, ""), prepare(2, journal)];
        for at in [1, 2] {
            enrol(&nodes[at - 1], &nodes[at], &data[at], directory.path());
        }
        nodes.iter_mut().for_each(Node::start);
        let [ministry, province, county] = nodes;
        wait_for("the cards", || {
            let known = |node: &Node| node.get("/api/v1/status")["authorities"].as_array().map(Vec::len);
            [&ministry, &province].into_iter().all(|node| known(node) == Some(3)).then_some(())
        });
        Self { ministry, province, county, _directory: directory }
    }
}

/// The superior signs the inferior's request.
fn enrol(superior: &Node, inferior: &Node, data: &Path, directory: &Path) {
    let (request, bundle) = (data.join("enrolment.request"), directory.join("bundle"));
    let (request, bundle) = (request.to_str().expect("a path"), bundle.to_str().expect("a path"));
    let sign = superior.command(&["enrol", "sign", "--request", request, "--out", bundle]);
    assert!(sign.status.success(), "{}", String::from_utf8_lossy(&sign.stderr));
    let accept = inferior.command(&["enrol", "accept", bundle]);
    assert!(accept.status.success(), "{}", String::from_utf8_lossy(&accept.stderr));
}

/// The ministry and authorities below it, linked over QUIC and enrolled, running.
pub(crate) struct Country {
    nodes: BTreeMap<String, Node>,
    _directory: TempDir,
}

impl Country {
    /// Each authority with its superior, which comes before it; with more sections for everybody's configuration. Every
    /// superior knows the cards of all below it.
    pub(crate) fn over_quic(below: &[(&str, &str)], sections: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ids: Vec<&str> = std::iter::once("000000000").chain(below.iter().map(|(id, _)| *id)).collect();
        let port = || UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a free port").port();
        let ports: BTreeMap<&str, u16> = ids.iter().map(|id| (*id, port())).collect();
        let mut country = Self { nodes: BTreeMap::new(), _directory: directory };
        for id in ids {
            let up = below.iter().find(|(of, _)| *of == id).map(|(_, superior)| *superior);
            let link_up = up.map(|superior| {
                let port = ports[superior];
                format!("[[link]]\npeer = \"{superior}\"\ntransport = \"quic\"\naddress = \"127.0.0.1:{port}\"\n")
            });
            let down = below.iter().filter(|(_, superior)| *superior == id);
            let links: String =
                down.map(|(of, _)| format!("[[link]]\npeer = \"{of}\"\ntransport = \"quic\"\n")).collect();
            let listen = format!("{sections}[quic]\nlisten = \"127.0.0.1:{}\"\n", ports[id]);
            let more = [listen, link_up.unwrap_or_default(), links].concat();
            let path = country._directory.path();
            let node = Node::prepare(path, id, id, &more);
            if let Some(superior) = up {
                enrol(&country.nodes[superior], &node, &path.join(id), path);
            }
            country.nodes.insert(id.to_owned(), node);
        }
        country.nodes.values_mut().for_each(Node::start);
        let all = below.len() + 1;
        wait_for("the cards", || {
            let known = country.of("000000000").get("/api/v1/status")["authorities"].as_array().map(Vec::len);
            (known == Some(all)).then_some(())
        });
        country
    }

    /// The node of an authority.
    pub(crate) fn of(&self, authority: &str) -> &Node {
        &self.nodes[authority]
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(id, node)| (id.as_str(), node))
    }
}
