//! The demo's two processes: started from this very program, killed and started again.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::{Child, ChildStdin, Command};

use super::layout::DemoNode;

/// A running node. Its standard input is a pipe that we hold: when we go, however we go, it ends.
pub(crate) struct Process {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts `vmsync serve` for `node`.
    pub(crate) fn start(node: &DemoNode) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| format!("own program file: {e}"))?;
        Self::start_program(&program, node)
    }

    fn start_program(program: &Path, node: &DemoNode) -> Result<Self, String> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&node.log)
            .map_err(|e| format!("{}: {e}", node.log.display()))?;
        let errors = log
            .try_clone()
            .map_err(|e| format!("{}: {e}", node.log.display()))?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&node.config)
            .arg("--stop-on-stdin-eof")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C goes to the whole foreground group: the nodes must be stopped by us, in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline })
    }

    /// Its process id; 0 once it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Whether it has ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(status.to_string()),
            Ok(None) => None,
            Err(e) => Some(e.to_string()),
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|e| e.to_string())
    }

    /// Asks it to stop and waits; an error when it does not within 20 s or ends badly.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        drop(self.lifeline.take());
        match tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("ended with {status}")),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => {
                let _ = self.child.kill().await;
                Err("did not stop within 20 s and was killed".to_owned())
            }
        }
    }
}
