//! Writes the seeds of the corpora anew: `cargo run -p jincai-fuzz --example seeds` at the root. To be run when a format has
//! changed; what the search has found (`found-…`) stays.

use jincai_fuzz::{TARGETS, seeds};
use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let corpus = Path::new("tests/fuzz/corpus");
    for (target, _) in TARGETS {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(seeds::PREFIX) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    for seed in seeds::all() {
        fs::write(corpus.join(seed.target).join(seed.file()), &seed.bytes)?;
    }
    Ok(())
}
