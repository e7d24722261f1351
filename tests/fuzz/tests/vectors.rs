//! The vectors for second implementations are those that today's encoders write, and are judged as they say.

use jincai_fuzz::seeds::vectors;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// All of them together.
const BYTES: usize = 300 << 10;

/// Tests run in their package's folder.
fn held() -> BTreeMap<String, String> {
    let entries = fs::read_dir(Path::new("../kit/vectors")).expect("the vectors");
    let read = entries.map(|entry| {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("a file of vectors"))
    });
    read.collect()
}

#[test]
fn the_files_hold_what_today_s_encoders_write() {
    let (held, made) = (held(), BTreeMap::from_iter(vectors::files()));
    assert!(held.keys().eq(made.keys()), "other files: cargo run -p jincai-fuzz --example vectors");
    for (name, content) in &made {
        assert!(held[name] == *content, "{name} is out of date: cargo run -p jincai-fuzz --example vectors");
    }
    let bytes: usize = held.values().map(String::len).sum();
    assert!(bytes <= BYTES, "{bytes} bytes of vectors are more than a reader wants");
}

#[test]
fn every_good_vector_means_what_it_says_and_every_bad_one_is_refused_by_its_code() {
    let held = held();
    let counted = vectors::FILES.map(|(file, _)| vectors::check(file, &held[&format!("{file}.json")]));
    assert!(counted.iter().all(|count| *count >= 6), "each file has some: {counted:?}");
}
