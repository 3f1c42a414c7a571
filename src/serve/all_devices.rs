//! `vstar work --device all`: a worker process for each GPU of the machine, which start and end together.
//!
//! A process each, because CUDA's state belongs to a process: a worker whose driver fails takes no other with it. Whatever runs
//! this one, such as systemd or Kubernetes, starts all of them again if one is lost; its jobs go to others meanwhile.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::process::Command;

use super::signals::Signals;
use crate::config::Settings;
use crate::engine::device::all_devices;

/// What `--device` is then.
pub(super) const ALL: &str = "all";

/// Starts the workers and waits for their end.
///
/// # Errors
/// If there is no GPU, or a worker ended by itself.
pub(super) async fn work(settings: &Settings) -> Result<()> {
    let devices = all_devices().context("--device")?;
    tracing::info!(devices = devices.join(", "), "starting a worker for each device");
    let program = std::env::current_exe().context("the program's own file")?;
    let arguments = without_options(std::env::args_os().skip(1), &["--device", "--metrics-listen"]);
    let mut commands = Vec::new();
    for (index, device) in devices.into_iter().enumerate() {
        let mut command = Command::new(&program);
        command.args(&arguments).env("VSTAR_DEVICE", &device);
        match settings.metrics_listen {
            Some(first) => {
                command.env("VSTAR_METRICS_LISTEN", metrics_address(first, index)?.to_string())
            }
            None => command.env_remove("VSTAR_METRICS_LISTEN"),
        };
        commands.push((device, command));
    }
    supervise(commands, &mut Signals::listen()?).await
}

/// Workers cannot share a port: each has the one after the last's.
fn metrics_address(first: SocketAddr, index: usize) -> Result<SocketAddr> {
    let port = usize::from(first.port()) + index;
    let port = u16::try_from(port)
        .with_context(|| format!("--metrics-listen {first}: worker {index} has no port left"))?;
    Ok(SocketAddr::new(first.ip(), if first.port() == 0 { 0 } else { port }))
}

/// The arguments without these options, in both of their forms.
fn without_options(arguments: impl Iterator<Item = OsString>, options: &[&str]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut skip_value = false;
    for argument in arguments {
        let text = argument.to_string_lossy();
        let is_option = options.iter().any(|option| text == *option);
        let has_value = options
            .iter()
            .any(|option| text.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')));
        if skip_value {
            skip_value = false;
        } else if is_option {
            skip_value = true;
        } else if !has_value {
            kept.push(argument);
        }
    }
    kept
}

/// Runs the commands until a signal, which goes on to all of them, or until one of them ends.
async fn supervise(commands: Vec<(String, Command)>, signals: &mut Signals) -> Result<()> {
    ensure!(!commands.is_empty(), "there is nothing to run");
    let (mut processes, mut running) = (Vec::new(), FuturesUnordered::new());
    for (name, mut command) in commands {
        end_with_this_process(&mut command);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the worker of {name} does not start"))?;
        processes.extend(child.id());
        running.push(async move { (name, child.wait().await) });
    }
    let mut failure: Option<String> = None;
    let mut is_ending = false;
    loop {
        tokio::select! {
            (name, _) = signals.next() => {
                tracing::info!("{name}: ending all workers");
                is_ending = true;
                terminate(&processes);
            }
            ended = running.next() => match ended {
                None => break,
                Some((name, status)) => {
                    let status: ExitStatus = status.with_context(|| format!("the worker of {name}"))?;
                    if is_ending && status.success() {
                        continue;
                    }
                    failure.get_or_insert(format!("the worker of {name} ended by itself: {status}"));
                    if !is_ending {
                        tracing::error!("the worker of {name} ended by itself: {status}; ending the others");
                        is_ending = true;
                        terminate(&processes);
                    }
                }
            },
        }
    }
    match failure {
        Some(failure) => bail!(failure),
        None => Ok(()),
    }
}

/// A worker must not outlive this process, in whatever way that ends.
fn end_with_this_process(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: `prctl` is a system call alone, which a child may make before it becomes another program.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Asks processes to end. One that has ended already is still ours until it is waited for, so its number is no other's.
fn terminate(processes: &[u32]) {
    for process in processes {
        // SAFETY: a system call with plain numbers.
        unsafe { libc::kill(*process as libc::pid_t, libc::SIGTERM) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str) -> (String, Command) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        (script.to_owned(), command)
    }

    #[test]
    fn the_options_that_each_worker_has_for_itself_are_taken_out() {
        let arguments = "--log-format json work --device all --device=all --metrics-listen [::1]:9100 --threads 4";

        let kept = without_options(
            arguments.split(' ').map(OsString::from),
            &["--device", "--metrics-listen"],
        );

        assert_eq!(kept, ["--log-format", "json", "work", "--threads", "4"]);
    }

    #[test]
    fn each_worker_shows_its_metrics_at_a_port_of_its_own() {
        let at = |first: &str, index| metrics_address(first.parse().unwrap(), index);

        assert_eq!(at("127.0.0.1:9100", 3).unwrap().to_string(), "127.0.0.1:9103");
        assert_eq!(at("127.0.0.1:0", 3).unwrap().port(), 0);
        assert!(at("127.0.0.1:65535", 1).is_err());
    }

    #[tokio::test]
    async fn a_worker_that_ends_by_itself_ends_the_others() {
        let mut signals = Signals::listen().unwrap();
        let began = Instant::now();

        let ended = supervise(vec![shell("sleep 60"), shell("exit 3")], &mut signals).await;

        let error = ended.unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("status: 3"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
