//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use ruma::OwnedServerName;

use crate::{
    admin::{self, AdminCommand},
    app, backup,
    config::{self, Config, Template},
    doctor::{self, Doctor},
    exit::{Failure, Reason},
    health, secret, sidecar, tls, verify,
};

/// Length of generated tokens and secrets, in characters of base 62.
const SECRET_LENGTH: usize = 40;

/// A Matrix homeserver with replicated shared spaces.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGINT or SIGTERM.
    Serve(ConfigFile),
    /// Print a configuration with every key documented and fresh secrets.
    GenerateConfig(GenerateConfig),
    /// Say whether a configuration can be used, and touch nothing.
    CheckConfig(ConfigFile),
    /// Give the server, which must not run, a new signing key. The old one stays published.
    RotateKey(ConfigFile),
    /// Say whether the running server answers.
    Health(ConfigFile),
    /// Administer the running server: users, rooms, files, tokens, other servers, reports.
    Admin(Configured<AdminCommand>),
    /// Back up a server, running or stopped: its database and files, what is new since the last time.
    Backup(Configured<backup::Backup>),
    /// Put a backup into an empty folder.
    Restore(backup::Restore),
    /// Look at everything in a stopped server's data folder, or in a backup, and say what is damaged.
    Verify(Configured<verify::Verify>),
    /// Look at everything around the server that has to be right, and say what to do.
    Doctor(Configured<Doctor>),
    /// Give the rooms of another homeserver shared spaces, from beside it.
    #[command(subcommand)]
    Sidecar(SidecarCommand),
}

#[derive(Debug, Subcommand)]
enum SidecarCommand {
    /// Prepare a sidecar, and print what is to be done to attach it. Nothing of the homeserver is touched.
    Init(sidecar::Init),
    /// Run the sidecar until SIGINT or SIGTERM.
    Run(SidecarConfigFile),
}

#[derive(Debug, Args)]
struct SidecarConfigFile {
    /// The configuration file.
    #[arg(long, short, env = "CAUSEWAY_CONFIG", default_value = sidecar::CONFIG_FILE)]
    config: PathBuf,
}

/// What needs a configuration, and what it is told besides.
#[derive(Debug, Args)]
struct Configured<T: Args> {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    wanted: T,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, env = "CAUSEWAY_CONFIG", default_value = "causeway.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct GenerateConfig {
    /// What stands after the colon in users' names; can't be changed later.
    #[arg(long)]
    server_name: OwnedServerName,
    /// Where the server stores everything, relative to the configuration file.
    #[arg(long, default_value = "data")]
    data_folder: String,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8008")]
    address: SocketAddr,
    /// Let those who know the generated token make accounts.
    #[arg(long)]
    registration_token: bool,
}

/// Does what the command line asks for.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Serve(file) => {
            let config = load(&file)?;
            tls::install_provider();
            app::serve(&config, &file.config)
        }
        Command::Sidecar(SidecarCommand::Init(wanted)) => {
            tls::install_provider();
            sidecar::init(&wanted)
        }
        Command::Sidecar(SidecarCommand::Run(SidecarConfigFile { config: path })) => {
            let config = load(&ConfigFile { config: path.clone() })?;
            tls::install_provider();
            app::serve_beside(&config, &path, sidecar::attached(&config)?)
        }
        Command::CheckConfig(file) => {
            let config = load(&file)?;
            println!("{}: usable, for {}", file.config.display(), config.server_name);
            Ok(())
        }
        Command::RotateKey(file) => {
            println!("from now on signs {}", app::rotate_key(&load(&file)?)?);
            Ok(())
        }
        Command::Admin(admin) => admin::run(&load(&admin.file)?, &admin.wanted),
        Command::Backup(backup) => backup::backup(&load(&backup.file)?, &backup.wanted),
        Command::Verify(verify) => verify::run(&verify.wanted, || {
            let config = load(&verify.file)?;
            Ok((config.server_name, config.data_folder))
        }),
        Command::Doctor(doctor) => doctor::run(&load(&doctor.file)?, &doctor.wanted),
        Command::Restore(wanted) => backup::restore(&wanted),
        Command::Health(file) => health::check(&load(&file)?),
        Command::GenerateConfig(wanted) => {
            print!("{}", generate(&wanted));
            Ok(())
        }
    }
}

fn load(file: &ConfigFile) -> Result<Config, Failure> {
    Config::load(&file.config).map_err(|error| Failure::new(Reason::Configuration, error))
}

fn generate(wanted: &GenerateConfig) -> String {
    let token = wanted.registration_token.then(|| secret::of_length(SECRET_LENGTH));
    config::generate(&Template {
        server_name: wanted.server_name.as_str(),
        data_folder: &wanted.data_folder,
        address: &wanted.address.to_string(),
        registration_token: token.as_deref(),
        shared_secret: &secret::of_length(SECRET_LENGTH),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
