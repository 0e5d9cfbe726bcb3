//! The daemon as a process of its own, which is killed between two steps, and a second one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::scene::Scene;
use crate::telemetry::{Milestone, What};

/// What the scenario says and shows while it goes on.
pub(super) struct Heard {
    pub(super) milestones: UnboundedSender<Milestone>,
    pub(super) lines: UnboundedSender<String>,
}

impl Heard {
    pub(super) fn new() -> (
        Self,
        UnboundedReceiver<Milestone>,
        UnboundedReceiver<String>,
    ) {
        let (milestones, of_jobs) = mpsc::unbounded_channel();
        let (lines, of_others) = mpsc::unbounded_channel();
        let heard = Self { milestones, lines };
        (heard, of_jobs, of_others)
    }
}

/// Lets one daemon work until it waits for the detach to propagate, kills it, and lets a second one finish.
///
/// # Errors
/// If a daemon cannot be started, or the second one fails.
pub(super) async fn perform(
    scene: &Scene,
    environment: &[(&'static str, String)],
    heard: &Heard,
) -> anyhow::Result<()> {
    let of = &scene.rejections[0].service.execution_id;
    let mut first = Daemon::start(environment)?;
    let waits = |what: &What| matches!(what, What::Waiting { .. });
    let waiting = first.follow(of, heard, waits).await;
    ensure!(waiting, "the first daemon ended before it waited");
    let id = first.child.id().unwrap_or_default();
    // SIGKILL: nothing of it runs any more.
    first.child.kill().await?;
    let said = format!("daemon {id} is killed with SIGKILL; a second one begins");
    let _ = heard.lines.send(said);
    let mut second = Daemon::start(environment)?;
    second.follow(of, heard, |_| false).await;
    let status = second.child.wait().await?;
    ensure!(status.success(), "the second daemon ended with {status}");
    Ok(())
}

struct Daemon {
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
}

impl Daemon {
    /// Starts this very program, with nothing in its environment that leads out of this machine.
    fn start(environment: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut child = Command::new(&program)
            .args(["run", "--drain"])
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("STAGESWEEP__TELEMETRY__LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", Path::display(&program)))?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        Ok(Self {
            child,
            log: BufReader::new(stdout).lines(),
        })
    }

    /// Passes what the daemon's log says of the job on, until it says what is waited for, or ends. Answers
    /// whether it has said that.
    async fn follow(
        &mut self,
        execution_id: &str,
        heard: &Heard,
        until: impl Fn(&What) -> bool,
    ) -> bool {
        while let Ok(Some(line)) = self.log.next_line().await {
            let said = serde_json::from_str(&line).ok();
            if let Some(what) = said.as_ref().and_then(what) {
                let last = until(&what);
                let execution_id = execution_id.to_owned();
                let _ = heard.milestones.send(Milestone { execution_id, what });
                if last {
                    return true;
                }
            }
        }
        false
    }
}

/// What a line of the log says.
fn what(line: &Value) -> Option<What> {
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let took = |name: &str| {
        let ms = line.get(name).and_then(Value::as_u64);
        Duration::from_millis(ms.unwrap_or_default())
    };
    Some(match text("message")? {
        "cleanup started" => What::Started {
            pipeline: text("pipeline")?.to_owned(),
        },
        "step applied" => What::Applied {
            step: known(text("step")?)?,
        },
        "waiting" => What::Waiting {
            wait: known(text("wait")?)?,
        },
        "wait ended" => What::Waited {
            wait: known(text("wait")?)?,
            took: took("wait.took_ms"),
        },
        "cleanup succeeded" => What::Ended {
            code: known(text("outcome")?)?,
            took: took("job.duration_ms"),
            success: true,
        },
        "message deleted" => What::Deleted,
        _ => return None,
    })
}

/// A code that this scenario may come to.
fn known(code: &str) -> Option<&'static str> {
    const CODES: [&str; 9] = [
        "record_deleted",
        "detach_policy",
        "delete_policy",
        "disable_staging",
        "delete_staging",
        "both_deployed",
        "detach_propagated",
        "disable_propagated",
        "cleaned",
    ];
    CODES.into_iter().find(|it| *it == code)
}
