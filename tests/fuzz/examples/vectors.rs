//! Writes the vectors for second implementations anew: `cargo run -p jincai-fuzz --example vectors` at the root. To be run when
//! a format has changed, or a vector was added.

use jincai_fuzz::seeds::vectors;
use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let folder = Path::new("tests/kit/vectors");
    fs::create_dir_all(folder)?;
    vectors::files().into_iter().try_for_each(|(name, content)| fs::write(folder.join(name), content))
}
