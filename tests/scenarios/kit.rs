//! The kit for second implementations, held against a node in Python that passes and against ways of breaking it: a judge
//! that cannot fail is no judge.

use crate::node::jincai;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Broken nodes that are judged at a time; most of it is waiting.
const AT_A_TIME: usize = 4;
/// Seconds to wait for what must come, however slow the machine, and for what will not.
const LONG: &str = "120";
const SHORT: &str = "10";

/// A way of breaking the sample: what it then does, a piece of its text, what stands there instead, the cases that must fail.
type Broken = (&'static str, &'static str, &'static str, &'static [&'static str]);

const BROKEN: &[Broken] = &[
    ("answers no hello", "if not heard:", "if False:", &["hello"]),
    (
        "knows no groups",
        ", *([1, [a]] for a in above), *([3, [a, level]] for a in above)]",
        "]",
        &["group", "altered-group"],
    ),
    ("does not check the origin's signature", r#"verify("statement", signed, self.peer_key)"#, "pass", &["forged"]),
    ("does not check the messages", "check(root == merkle(items)", "check(True", &["altered", "altered-group"]),
    ("takes what is for others", "check(lane[1] in self.to_us", "check(True", &["destination"]),
    ("takes what comes behind a gap", r#"return "gap""#, r#"return "new""#, &["gap"]),
    (
        "applies duplicates",
        r#"case "new": self.open(batch)"#,
        r#"case "new" | "duplicate": self.open(batch)"#,
        &["duplicate", "kill-after-receipt", "kill-any-time"],
    ),
    (
        "does not sign for duplicates",
        "self.owed.append([lane, end, 0])",
        r#"self.owed += [[lane, end, 0]] if verdict == "new" else []"#,
        &["duplicate", "kill-after-receipt"],
    ),
    ("takes a fork for a duplicate", r#"if known == new[2] else "fork""#, r#"if known else "fork""#, &["fork"]),
    ("goes on after a fork", r#"case "fork": self.held.add(value)"#, r#"case "fork": pass"#, &["fork"]),
    ("asks for no conditions", r#"chain["waits"] or "requires" in attributes"#, "False", &["requires"]),
    (
        "reads what is being written",
        r#"sorted(filter(entry.fullmatch, os.listdir(self.config["incoming"])))"#,
        r#"sorted(n for n in os.listdir(self.config["incoming"]) if entry.fullmatch(n) or n.endswith("aa.frame.part"))"#,
        &["partial"],
    ),
    (
        "takes any name",
        r#"re.compile(r"[0-3]-[0-9a-f]{16}-[0-9a-f]{16}\.frame")"#,
        r#"re.compile(r"[0-3]-.*\.frame")"#,
        &["partial"],
    ),
    (
        "dies of frames that it does not know",
        r#"check(kind < 10, "a frame of an unknown kind")"#,
        "kind < 10 or os._exit(1)",
        &["unknown-frame"],
    ),
    ("does not sign for having applied", "in self.due.items():", "in ():", &["applied-receipt"]),
    (
        "sends once",
        r#"entry["sent"] = time.monotonic()"#,
        r#"entry["sent"] = float("inf")"#,
        &["custody", "forged-receipt"],
    ),
    ("keeps what is signed for", r#"self.record("cleared", position[:2])"#, "pass", &["custody"]),
    (
        "believes any receipt",
        r#"decode(verify("receipts", signed, self.peer_key))"#,
        "decode(decode(signed)[2])",
        &["forged-receipt"],
    ),
    (
        "believes receipts for something else",
        r#"entry["end"] == position"#,
        r#"entry["end"][:2] == position[:2]"#,
        &["forged-receipt"],
    ),
    (
        "lets what is unsigned end custody",
        "            case [3, [signed]]:\n",
        "            case [2, [lane, position]]: self.on_receipt(lane, position)\n            case [3, [signed]]:\n",
        &["forged-receipt"],
    ),
    (
        "signs before it is durable",
        r#"self.open(batch) and self.record("batch", batch.hex())"#,
        r#"self.owed.append([lane, end, 0]), self.sign_receipts(), time.sleep(0.5), self.record("batch", batch.hex())"#,
        &["kill-after-receipt"],
    ),
    (
        "takes messages before they are durable",
        "            if message[\"id\"] not in self.sent_ids:\n",
        "            path.unlink()\n            time.sleep(0.5)\n            path.touch()\n            if message[\"id\"] not in self.sent_ids:\n",
        &["kill-after-submit"],
    ),
    (
        "keeps its epoch after a kill",
        r#"self.record("epoch", [max("#,
        r#"self.epoch == [0, 0] and self.record("epoch", [max("#,
        &["epoch"],
    ),
    (
        "forgets its lane in a kill",
        r#"        self.record("epoch", [max("#,
        "        self.end = START\n        self.record(\"epoch\", [max(",
        &["epoch"],
    ),
];

/// Tests run in their package's folder.
fn sample() -> PathBuf {
    std::path::absolute("../../tests/kit/sample.py").expect("a path")
}

/// A Python that has what the sample needs: the first one, or the system's, for which tests/install.sh installs it.
fn python() -> &'static str {
    let has = |python: &&str| {
        let tried = Command::new(python).args(["-c", "import cbor2, cryptography"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has)
        .expect("a Python with cbor2 and cryptography: tests/install.sh")
}

/// The command that runs a node in Python.
fn in_python(file: &Path) -> String {
    format!("exec {} '{}'", python(), file.display())
}

/// The names of all cases.
fn cases() -> Vec<String> {
    let listed: Value = serde_json::from_slice(&jincai(&["kit", "cases", "--json"]).stdout).expect("JSON");
    let cases = listed["cases"].as_array().expect("cases").iter();
    cases.map(|case| case["case"].as_str().expect("a name").to_owned()).collect()
}

/// The exit code, and which of these cases failed, with the reasons.
fn judge(command: &str, cases: &[&str], patience: &str) -> (Option<i32>, Vec<(String, String)>) {
    let mut arguments = vec!["kit", "run", "--json", "--jobs", "6", "--patience", patience, "--sut", command];
    cases.iter().for_each(|case| arguments.extend(["--case", case]));
    let run = jincai(&arguments);
    let report: Value = serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&run.stderr)));
    let judged = report["cases"].as_array().expect("cases");
    assert_eq!(judged.len(), cases.len(), "{report}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let failed = judged.iter().filter(|case| case["passed"] == false);
    (run.status.code(), failed.map(|case| (text(&case["case"]), text(&case["why"]))).collect())
}

/// Every case passes.
fn passes(command: &str) {
    let cases = cases();
    assert_eq!(cases.len(), 21);
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    assert_eq!(judge(command, &cases, LONG), (Some(0), Vec::new()));
}

#[test]
fn a_node_in_another_language_passes_every_case() {
    passes(&in_python(&sample()));
    let lines = std::fs::read_to_string(sample()).expect("the sample").lines().count();
    assert!(lines <= 300, "the sample has {lines} lines: more than one reads in a sitting");
}

/// What the judge wants is what production does, and not only what the sample does.
#[test]
fn the_production_core_passes_every_case() {
    passes(&format!("exec '{}' kit node", env!("CARGO_BIN_EXE_jincai")));
}

#[test]
fn each_way_of_breaking_it_fails_the_cases_that_judge_it_and_no_other() {
    let (text, cases) = (std::fs::read_to_string(sample()).expect("the sample"), cases());
    let directory = tempfile::tempdir().expect("a directory");
    let (next, findings) = (Mutex::new(BROKEN.iter().enumerate()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some((number, (what, piece, instead, wanted))) = next.lock().expect("the list").next() else { return };
            assert_eq!(text.matches(piece).count(), 1, "«{piece}» stands once in the sample");
            let file = directory.path().join(format!("broken-{number}.py"));
            std::fs::write(&file, text.replace(piece, instead)).expect("written");
            let (bad, good): (Vec<&str>, Vec<&str>) =
                cases.iter().map(String::as_str).partition(|case| wanted.contains(case));
            let ((code, failed), (_, others)) =
                (judge(&in_python(&file), &bad, SHORT), judge(&in_python(&file), &good, LONG));
            if code != Some(3) || failed.len() != wanted.len() || !others.is_empty() {
                findings
                    .lock()
                    .expect("the findings")
                    .push(format!("{what}: {failed:?} of {wanted:?}, and {others:?}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    let findings = findings.into_inner().expect("the findings");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn what_cannot_be_run_is_told() {
    let unknown = jincai(&["kit", "run", "--sut", "true", "--case", "nothing"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("JC-1909"));
    let ends = jincai(&["kit", "run", "--sut", "echo broken; exit 7;", "--case", "batch"]);
    let said = String::from_utf8_lossy(&ends.stdout).into_owned();
    assert_eq!(ends.status.code(), Some(3), "{said}");
    assert!(said.contains("ended by itself") && said.contains("broken"), "{said}");
    assert!(String::from_utf8_lossy(&ends.stderr).contains("JC-1910"));
}
