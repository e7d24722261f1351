//! libFuzzer's door to one target, named by `JINCAI_FUZZ_TARGET`. `search.sh` calls it.

#![no_main]

use jincai_fuzz::Target;
use std::sync::OnceLock;

static TARGET: OnceLock<Target> = OnceLock::new();

fn named() -> Target {
    let name = std::env::var("JINCAI_FUZZ_TARGET").expect("JINCAI_FUZZ_TARGET names a target");
    jincai_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target «{name}»"))
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    TARGET.get_or_init(named)(input);
});
