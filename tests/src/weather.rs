//! Bad links between network namespaces: packets that get lost and lines that are slow.
//!
//! Loss is a rule of nftables in the middle, delay a queue in front of a server: `netem` where
//! the kernel has it, or else a narrow line with a long buffer (`tbf`), which delays what queues
//! up. What a machine has neither of is left out, and the caller is told so.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::{
    namespaces::Namespaces,
    result::{Result, ensure},
};

/// The delay of a slow line, and how much it varies.
const DELAY: [&str; 4] = ["netem", "delay", "120ms", "60ms"];
/// A slow line for kernels without netem: bytes wait up to half a second.
const NARROW: [&str; 7] = ["tbf", "rate", "1mbit", "burst", "8kb", "latency", "500ms"];

/// The links of some namespaces that lose packets.
#[derive(Debug, Default)]
pub struct Weather {
    losses: Mutex<BTreeMap<(usize, usize), usize>>,
}

impl Weather {
    /// Lets so many of a hundred packets between two servers get lost, both ways; false if
    /// this machine can't.
    pub fn lose(&self, namespaces: &Namespaces, a: usize, b: usize, percent: usize) -> Result<bool> {
        let rules = {
            let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
            losses.insert((a, b), percent);
            losses.retain(|_, percent| *percent > 0);
            let mut rules = "add table ip weather; \
                add chain ip weather forward { type filter hook forward priority 0; }; \
                flush chain ip weather forward;"
                .to_owned();
            for ((a, b), percent) in losses.iter() {
                let (a, b) = (namespaces.spot(*a).secure.ip(), namespaces.spot(*b).secure.ip());
                for (from, to) in [(a, b), (b, a)] {
                    let rule = format!(
                        "add rule ip weather forward ip saddr {from} ip daddr {to} \
                         numgen random mod 100 < {percent} drop;"
                    );
                    rules.push_str(&rule);
                }
            }
            rules
        };
        Ok(is_done(in_hub(namespaces, "nft").arg(rules)))
    }

    /// Makes the line to a server slow; false if this machine can't.
    pub fn slow(&self, namespaces: &Namespaces, server: usize) -> Result<bool> {
        let queue = |kind: &[&str]| {
            let mut command = in_hub(namespaces, "tc");
            command.args(["qdisc", "replace", "dev", &Namespaces::link(server), "root"]).args(kind);
            is_done(&mut command)
        };
        Ok(queue(&DELAY) || queue(&NARROW))
    }

    /// Ends that.
    pub fn hasten(&self, namespaces: &Namespaces, server: usize) -> Result<()> {
        let mut command = in_hub(namespaces, "tc");
        command.args(["qdisc", "del", "dev", &Namespaces::link(server), "root"]);
        ensure(is_done(&mut command), || format!("the line to server {server} stays slow"))
    }
}

fn in_hub(namespaces: &Namespaces, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespaces.hub(), program]);
    command
}

fn is_done(command: &mut Command) -> bool {
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
