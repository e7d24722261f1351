//! `jincai`: the gateway node and its command line.

mod backup;
mod bench;
mod checkpoint;
mod cli;
mod client;
mod clock;
mod commands;
mod config;
mod country;
mod demo;
mod enrol;
mod error;
mod file;
mod input;
mod keeper;
mod kit;
mod links;
mod messages;
mod output;
mod pulse;
mod queue;
mod read_only;
mod release;
mod run;
mod shell;
mod surge;
mod trace;

use clap::Parser;
use std::process::ExitCode;

/// Its background thread gives memory back to the system some seconds after a large import or query (decision 0009).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = cli::Cli::parse();
    match commands::execute(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("jincai: {error} [{}]", error.code()));
            ExitCode::from(error.exit_code())
        }
    }
}
