//! What Linux says of a process, whoever made its program, and how it is asked to end.

use std::{fs, process::ExitStatus, time::Duration};

use tokio::process::{Child, Command};

use crate::result::{Failure, Result, ensure};

/// Linux tells times in hundredths of a second, whatever its own clock.
const TICK_MS: u64 = 10;

/// Processor time that a process has used so far.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name may hold anything but ends with the last parenthesis;
    // times in user and system mode are fields 14 and 15 (proc_pid_stat(5)).
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    ensure(ticks.len() == 2, || "no processor times".to_owned())?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * TICK_MS))
}

/// Bytes of memory that a process has resident.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    bytes_of(pid, "VmRSS:")
}

/// The most that it had at once since it was started, or since [`forget_peak`].
pub fn peak_bytes(pid: u32) -> Result<u64> {
    bytes_of(pid, "VmHWM:")
}

/// From now on the most that it has is counted anew (proc(5), `clear_refs`).
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn bytes_of(pid: u32, what: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.ok_or_else(|| Failure::new("no resident memory"))? * 1024)
}

/// Ends a process at once (SIGKILL), if it runs.
pub async fn kill(child: &mut Option<Child>) -> Result<()> {
    match child.take() {
        Some(mut child) => Ok(child.kill().await?),
        None => Ok(()),
    }
}

/// Asks a process to end (SIGTERM), if it runs, and waits for that; how it ended.
pub async fn stop(child: &mut Option<Child>, patience: Duration) -> Result<Option<ExitStatus>> {
    let Some(mut child) = child.take() else { return Ok(None) };
    if let Some(pid) = child.id() {
        terminate(pid).await?;
    }
    let ended = tokio::time::timeout(patience, child.wait()).await;
    Ok(Some(ended.map_err(|_| Failure::new("the process did not stop"))??))
}

/// Asks a process to end (SIGTERM), if it runs, and ends it (SIGKILL) if it has not by then.
pub async fn end(child: &mut Option<Child>, patience: Duration) -> Result<()> {
    let Some(running) = child.as_mut() else { return Ok(()) };
    if let Some(pid) = running.id() {
        terminate(pid).await?;
    }
    // Whether in time or not.
    let _ = tokio::time::timeout(patience, running.wait()).await;
    kill(child).await
}

async fn terminate(pid: u32) -> Result<()> {
    let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid.to_string()]).status().await?;
    ensure(sent.success(), || format!("no process {pid}"))
}
