//! `jincai`: the gateway node and its command line.

mod bench;
mod cli;
mod client;
mod clock;
mod commands;
mod config;
mod demo;
mod enrol;
mod error;
mod links;
mod output;
mod run;
mod shell;

use clap::Parser;
use std::process::ExitCode;

/// Gives memory back to the system soon after a large import or query.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
