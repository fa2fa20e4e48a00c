//! The `vmsync` program as a process: run to its end, or kept running and stopped by its id.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::{LIMIT, Ports};

/// The program, built by `tests/run` beside the tests.
pub fn vmsync() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|e| panic!("own program file: {e}"));
    // target/<profile>/deps/<test> → target/<profile>/vmsync
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("vmsync"))
        .find(|p| p.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "the program vmsync is not built beside {}: run tests/run, it builds it",
            test.display()
        )
    })
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` = by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Fails the test unless it exited with 0.
    #[track_caller]
    pub fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "\n{}\n{}", self.out, self.err);
        self
    }
}

/// Fails the test unless the Debian package `name` with its program is installed: a test that
/// can't run has not passed.
pub fn installed(name: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    assert!(
        there,
        "{name} is not installed: run tests/run, it installs {name}"
    );
}

/// Runs `program` with `args` to its end, within `limit`.
pub async fn run(program: impl AsRef<Path>, args: &[&str], limit: Duration) -> Ended {
    let program = program.as_ref();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Ok(Err(e)) => panic!("{}: {e}", program.display()),
        Err(late) => panic!(
            "{} {args:?} did not end within {} s: {late}",
            program.display(),
            limit.as_secs()
        ),
    }
}

/// A running `vmsync`. Killed when dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Option<tokio::io::Lines<BufReader<tokio::process::ChildStdout>>>,
    said: Vec<String>,
}

impl Process {
    /// `vmsync serve`, logging to `log`; ends when we do.
    pub fn serve(config: &Path, log: &Path) -> Self {
        Self::serve_with(&vmsync(), config, log)
    }

    /// `serve` of another program, an older release say.
    pub fn serve_with(program: &Path, config: &Path, log: &Path) -> Self {
        Self::serving(Command::new(program), config, log)
    }

    /// The same in the network namespace `space`. `ip` becomes the program: the process is still the
    /// one that is killed.
    pub(super) fn serve_in(space: &str, program: &Path, config: &Path, log: &Path) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space]).arg(program);
        Self::serving(command, config, log)
    }

    fn serving(mut command: Command, config: &Path, log: &Path) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(log);
        let log = log.unwrap_or_else(|e| panic!("the node's log: {e}"));
        command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .arg("--stop-on-stdin-eof");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        Self::spawn(command)
    }

    /// `vmsync demo` in `dir`.
    pub fn demo(dir: &Path, ports: &Ports) -> Self {
        let mut command = Command::new(vmsync());
        command
            .arg("demo")
            .arg("--dir")
            .arg(dir)
            .arg("--base-port")
            .arg(ports.base.to_string());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        Self::spawn(command)
    }

    /// Another program, which ends when its standard input does; its errors go to `log`.
    pub fn program(program: &str, args: &[&str], log: &Path) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(log);
        let log = log.unwrap_or_else(|e| panic!("the log of {program}: {e}"));
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(log);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let output = child.stdout.take().map(|out| BufReader::new(out).lines());
        Self {
            stdin: child.stdin.take(),
            child,
            output,
            said: Vec::new(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child
            .id()
            .unwrap_or_else(|| panic!("the process has ended"))
    }

    /// Waits until it prints a line with `words`.
    pub async fn says(&mut self, words: &str) {
        let Some(output) = &mut self.output else {
            panic!("its output goes elsewhere")
        };
        let reading = async {
            while let Ok(Some(line)) = output.next_line().await {
                self.said.push(line);
                if self.said.last().is_some_and(|line| line.contains(words)) {
                    return true;
                }
            }
            false
        };
        let found = timeout(LIMIT, reading).await;
        assert_eq!(
            found,
            Ok(true),
            "it never said {words:?}, but:\n{}",
            self.said.join("\n")
        );
    }

    /// SIGINT, as Ctrl-C.
    pub fn interrupt(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let sent = pid.map(|pid| kill_process(pid, Signal::INT));
        assert_eq!(sent, Some(Ok(())), "SIGINT could not be sent");
    }

    /// Waits for its end.
    pub async fn ends(mut self) -> Ended {
        let rest = async {
            if let Some(output) = &mut self.output {
                while let Ok(Some(line)) = output.next_line().await {
                    self.said.push(line);
                }
            }
            self.child.wait().await
        };
        let status = timeout(LIMIT, rest).await;
        let out = self.said.join("\n");
        let status: ExitStatus = match status {
            Ok(Ok(status)) => status,
            Ok(Err(e)) => panic!("{e}"),
            Err(late) => panic!("it did not end within {} s: {late}\n{out}", LIMIT.as_secs()),
        };
        Ended {
            code: status.code(),
            out,
            err: String::new(),
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(mut self) {
        if let Err(e) = self.child.kill().await {
            panic!("kill: {e}");
        }
    }

    /// Asks it to stop as `--stop-on-stdin-eof` allows, and waits for its end.
    pub async fn stop(mut self) -> Ended {
        drop(self.stdin.take());
        self.ends().await
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    /// Waits for the end, so that nobody writes any more to a folder that is about to be removed.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        for _ in 0..500 {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
