//! The habits of the project as tests: layers, purity, heads, sizes, error codes, links, and no traces of anybody's machine.
//!
//! It reads the repository's own files and nothing else, runs no program, and knows no crate by name: what a crate is and
//! where it stands is said by the layer table of docs/ARCHITECTURE.md alone. Every finding names its file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines.
const FILE_LINES: usize = 800;
/// Longest function, in lines from its name to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Top-level folders that hold the project's own text.
const FOLDERS: [&str; 7] = [".ci", "conf", "crypto", "docs", "node", "policies", "transports"];
/// What a pure crate may not depend on.
const RUNTIMES: [&str; 3] = ["tokio", "quinn", "axum"];
/// What a pure crate's code may not mention: the world outside, or an order that differs from run to run.
const IMPURE: [&str; 8] =
    ["std::fs", "std::net", "thread::spawn", "thread::sleep", "Instant::now", "SystemTime::now", "HashMap", "HashSet"];

/// What the layer table says of a crate.
struct Row {
    layer: u32,
    folder: String,
    kind: String,
}

/// Tests run in their package's folder.
fn root() -> PathBuf {
    PathBuf::from("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path as people write it in this repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Every file below a folder, in order; build output is no part of the project.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    paths.sort();
    for path in paths {
        if !path.is_dir() {
            found.push(path);
        } else if !path.ends_with("target") {
            files_below(&path, found);
        }
    }
}

/// Every text file of the project; the data that tests and demo use is others' text, and the lock file is cargo's.
fn project_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        files_below(&root().join(folder), &mut found);
    }
    let mut tests = Vec::new();
    files_below(&root().join("tests"), &mut tests);
    found.extend(tests.into_iter().filter(|path| !path.starts_with(root().join("tests/data")) || is(path, "md")));
    let top = fs::read_dir(root()).expect("the repository's root");
    found.extend(
        top.map(|entry| entry.expect("a directory entry").path())
            // In a second work tree of a repository `.git` is a file, and git's own.
            .filter(|path| {
                path.is_file() && !["Cargo.lock", "LICENSE", ".git"].iter().any(|name| path.ends_with(name))
            }),
    );
    found.sort();
    found
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = project_files().into_iter().filter(|path| is(path, "rs"));
    rust.map(|path| (path.clone(), read(&path))).collect()
}

/// Whether a file holds tests only.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// A source without what stands in its test module at the end.
fn without_tests(text: &str) -> &str {
    let marks = text.match_indices("#[cfg(test)]");
    let modules = marks.filter(|(at, mark)| {
        let following = text[at + mark.len()..].trim_start();
        following.starts_with("mod ") && following.lines().next().is_some_and(|line| line.ends_with('{'))
    });
    modules.map(|(at, _)| &text[..at]).next().unwrap_or(text)
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The layer table: rows of «| layer | `crate` | `folder` | kind | … |» below the heading «Layers».
fn layers() -> BTreeMap<String, Row> {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let (_, section) = text.split_once("\n## Layers\n").expect("docs/ARCHITECTURE.md has a section «Layers»");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [layer, name, folder, kind, ..] = cells.as_slice() else { return None };
        let bare = |cell: &str| cell.trim_matches('`').to_owned();
        Some((bare(name), Row { layer: layer.parse().ok()?, folder: bare(folder), kind: (*kind).to_owned() }))
    });
    rows.collect()
}

/// Names of a crate's normal and build dependencies; those of tests alone do not count.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |table: &toml::Table| {
        for kind in ["dependencies", "build-dependencies"] {
            let listed = table.get(kind).and_then(toml::Value::as_table);
            names.extend(listed.into_iter().flat_map(|listed| listed.keys().cloned()));
        }
    };
    add(manifest);
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    targets.into_iter().flat_map(|targets| targets.values()).filter_map(toml::Value::as_table).for_each(add);
    names
}

fn report(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn the_layer_table_lists_exactly_the_crates_of_the_workspace() {
    let listed: BTreeSet<String> = layers().into_values().map(|row| row.folder).collect();
    let workspace = manifest("");
    let members = workspace["workspace"]["members"].as_array().expect("members are a list");
    let members: BTreeSet<String> = members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect();
    assert_eq!(listed, members, "docs/ARCHITECTURE.md and Cargo.toml name different folders");
    for (name, row) in layers() {
        assert_eq!(manifest(&row.folder)["package"]["name"].as_str(), Some(name.as_str()), "{}", row.folder);
        assert!(["pure", "disk", "async"].contains(&row.kind.as_str()), "{name}: «{}» is no kind", row.kind);
    }
}

#[test]
fn dependencies_go_to_strictly_lower_layers() {
    let layers = layers();
    let mut findings = Vec::new();
    for (name, row) in &layers {
        for dependency in dependencies(&manifest(&row.folder)) {
            let Some(other) = layers.get(&dependency) else { continue };
            if other.layer >= row.layer {
                findings.push(format!("{name} (layer {}) depends on {dependency} (layer {})", row.layer, other.layer));
            }
            if row.kind == "pure" && other.kind == "async" {
                findings.push(format!("{name} is pure and depends on {dependency}, which is async"));
            }
        }
    }
    report(&findings);
}

#[test]
fn pure_crates_know_no_runtime_disk_network_clock_or_hash_order() {
    let mut findings = Vec::new();
    let pure: Vec<(String, Row)> = layers().into_iter().filter(|(_, row)| row.kind == "pure").collect();
    assert!(!pure.is_empty(), "the layer table names no pure crate");
    for (name, row) in &pure {
        let dependencies = dependencies(&manifest(&row.folder));
        let runtimes = RUNTIMES.iter().filter(|runtime| dependencies.contains(**runtime));
        findings.extend(runtimes.map(|runtime| format!("{name} is pure and depends on {runtime}")));
        let mut paths = Vec::new();
        files_below(&root().join(&row.folder).join("src"), &mut paths);
        for path in paths.iter().filter(|path| is(path, "rs") && !is_test(path)) {
            let text = read(path);
            let code = code_of(without_tests(&text));
            let words = IMPURE.iter().filter(|word| code.contains(**word));
            findings.extend(words.map(|word| format!("{}: {word} in a pure crate", shown(path))));
        }
    }
    report(&findings);
}

#[test]
fn every_source_has_a_head_and_a_bounded_length() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            findings.push(format!("{}: it does not begin with «//!»", shown(&path)));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES {
            findings.push(format!("{}: {lines} lines, at most {FILE_LINES} are wanted", shown(&path)));
        }
    }
    report(&findings);
}

#[test]
fn every_function_fits_a_screen() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        for (line, lines) in functions(&code_of(&text)) {
            if lines > FUNCTION_LINES {
                let text = format!("{}:{line}: a function of {lines} lines", shown(&path));
                findings.push(format!("{text}, at most {FUNCTION_LINES} are wanted"));
            }
        }
    }
    report(&findings);
}

#[test]
fn every_error_code_is_documented_and_every_documented_one_exists() {
    let mut raised = BTreeSet::new();
    for (_, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        // Comments may name codes too, but only code raises them.
        let lines = without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.for_each(|line| raised.extend(codes(line)));
    }
    let text = read(&root().join("docs/errors.md"));
    // The first cell of a table's row documents a code; mentions elsewhere do not.
    let documented: Vec<String> =
        text.lines().filter_map(|line| codes(line.strip_prefix("| ")?.split('|').next()?).pop()).collect();
    let unique: BTreeSet<String> = documented.iter().cloned().collect();
    assert_eq!(unique.len(), documented.len(), "a code has two rows in docs/errors.md");
    let missing = raised.difference(&unique).map(|code| format!("{code} is not documented in docs/errors.md"));
    let dead = unique.difference(&raised).map(|code| format!("{code} is documented and no source raises it"));
    report(&missing.chain(dead).collect::<Vec<_>>());
}

/// The error codes in a text, in order.
fn codes(text: &str) -> Vec<String> {
    let digits =
        |tail: &str| tail.get(..4).filter(|n| n.bytes().all(|b| b.is_ascii_digit())).map(|n| format!("JC-{n}"));
    text.split("JC-").skip(1).filter_map(digits).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for path in project_files().iter().filter(|path| is(path, "md")) {
        let folder = path.parent().expect("a file lies in a folder");
        for target in read(path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or(target);
            let local = !file.is_empty() && !target.contains("://");
            if local && !folder.join(file).exists() {
                findings.push(format!("{}: «{target}» leads nowhere", shown(path)));
            }
        }
    }
    report(&findings);
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    // Put together here, so that this file does not name them itself.
    let homes = ["home", "root", "Users", "work", "mnt"].map(|name| format!("/{name}/"));
    let beside = format!("../{}", "shared");
    let mut findings = Vec::new();
    for path in project_files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let named = homes.iter().chain([&beside]).find(|name| line.contains(name.as_str()));
            findings.extend(named.map(|name| format!("{}:{}: «{name}»", shown(&path), number + 1)));
        }
    }
    report(&findings);
}

/// A source with comments, texts and characters blanked out; lines stay where they are.
fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_bytes(rest, out.chars().next_back());
        let taken = skipped.unwrap_or_else(|| first.len_utf8()).min(rest.len());
        let (piece, tail) = rest.split_at(taken);
        match skipped {
            Some(_) => out.extend(piece.chars().filter(|c| *c == '\n').chain([' '])),
            None => out.push_str(piece),
        }
        rest = tail;
    }
    out
}

/// How long the comment, text or character is that begins here, if one does.
fn skipped_bytes(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if let Some(raw) = rest.strip_prefix('r').or_else(|| rest.strip_prefix("br")).filter(|_| !in_word) {
        let hashes = raw.bytes().take_while(|b| *b == b'#').count();
        if raw[hashes..].starts_with('"') {
            let (head, end) = (rest.len() - raw.len() + hashes + 1, format!("\"{}", "#".repeat(hashes)));
            return Some(rest[head..].find(&end).map_or(rest.len(), |at| head + at + end.len()));
        }
    }
    if let Some(text) = rest.strip_prefix('"') {
        return Some(1 + closed_by('"', text));
    }
    // A lifetime has no closing quote: only a quote after one character, or after an escape, makes a character.
    let character = rest.strip_prefix('\'')?;
    let mut following = character.chars();
    match following.next()? {
        '\\' => Some(1 + closed_by('\'', character)),
        c if following.next() == Some('\'') => Some(2 + c.len_utf8()),
        _ => None,
    }
}

/// Bytes up to and with the closing quote; a backslash takes the next character along.
fn closed_by(quote: char, text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// A function whose end has not been reached.
struct Open {
    line: usize,
    /// Braces that were open where its name stands.
    depth: usize,
    /// Brackets and parentheses that were open there.
    nested: usize,
    has_body: bool,
}

/// Line and length of every function in a source without comments and texts.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let (mut found, mut open): (Vec<(usize, usize)>, Vec<Open>) = (Vec::new(), Vec::new());
    let (mut line, mut depth, mut nested, mut word) = (1usize, 0usize, 0usize, String::new());
    let mut after_fn = false;
    for c in code.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        // A name after «fn» is a function; a parenthesis is the type of one.
        if after_fn && !word.is_empty() {
            open.push(Open { line, depth, nested, has_body: false });
        }
        after_fn = c.is_whitespace() && (word == "fn" || (after_fn && word.is_empty()));
        word.clear();
        match c {
            '\n' => line += 1,
            '(' | '[' => nested += 1,
            ')' | ']' => nested = nested.saturating_sub(1),
            ';' if open.last().is_some_and(|f| !f.has_body && f.nested == nested) => drop(open.pop()),
            '{' => {
                if let Some(function) = open.last_mut().filter(|f| f.depth == depth && f.nested == nested) {
                    function.has_body = true;
                }
                depth += 1;
            }
            '}' => {
                depth = depth.saturating_sub(1);
                if let Some(function) = open.pop_if(|f| f.has_body && f.depth == depth) {
                    found.push((function.line, line + 1 - function.line));
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn functions_are_measured_from_their_name_to_their_brace() {
    let text = [
        "fn a() {",
        "  let x = \"}\"; // }",
        "  let c = '}';",
        "}",
        "trait T {",
        "  fn b(x: [u8; 2]);",
        "  fn c<'a>(f: fn(u8) -> u8)",
        "  {",
        "    fn d() {}",
        "  }",
        "}",
        "const R: &str = r#\"fn e() {\"#;",
    ]
    .join("\n");
    assert_eq!(functions(&code_of(&text)), [(1, 4), (9, 1), (7, 4)]);
    let code = "a\n#[cfg(test)]\nmod tests;\nb\n";
    assert_eq!(without_tests(&format!("{code}#[cfg(test)]\nmod tests {{\n}}\n")), code);
    assert_eq!(codes("JC-1001 and JC-#### and JC-12 and JC-19085"), ["JC-1001", "JC-1908"]);
}
