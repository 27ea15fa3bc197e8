//! The composition root and command line of the server.
//!
//! Only this crate sees all the others: it reads the configuration, opens the
//! data folder, wires the use-cases to the doors and supervises the drivers.
//! It decides nothing about Matrix. Whatever stops the process is told in one
//! line on the standard error stream and by the exit code (see [`exit`]).

mod admin;
mod admin_socket;
mod app;
mod backup;
mod commands;
mod config;
mod doctor;
mod exit;
mod files;
mod handles;
mod health;
mod listeners;
mod observe;
mod readiness;
mod reload;
mod resources;
mod secret;
mod settings;
mod sidecar;
mod supervisor;
mod telemetry;
mod tls;
mod verify;

use std::process::ExitCode;

use clap::Parser;

/// A tenth of the processor time of a busy server was the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
