//! `causeway admin …`: asks the running server through the socket in its data
//! folder. What may be asked is in [`words`]; it decides nothing itself.

mod call;
mod print;
mod words;

use clap::Args;

use crate::{
    config::Config,
    exit::{Failure, Reason},
};
pub use call::{Call, CallError, ask};
pub use words::Words;

/// What is asked of the server, and how the answer is shown.
#[derive(Debug, Args)]
pub struct AdminCommand {
    /// Print the server's answer as it is.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    words: Words,
}

/// Asks, and prints the answer.
pub fn run(config: &Config, command: &AdminCommand) -> Result<(), Failure> {
    let internal = |error: std::io::Error| Failure::new(Reason::Internal, error);
    let asked = command.words.call(&config.server_name).map_err(internal)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let answer = runtime.block_on(call::ask(&config.data_folder, &asked));
    let answer = answer.map_err(|error| Failure::new(Reason::Internal, error))?;
    if command.json {
        println!("{}", print::json(&answer));
    } else {
        print!("{}", print::shown(&answer, &asked));
    }
    Ok(())
}
