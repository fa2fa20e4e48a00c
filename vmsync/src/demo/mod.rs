//! `vmsync demo`: a whole pair on one machine, from nothing. `--script` tells its story and checks it.

mod checks;
pub(crate) mod layout;
mod mailer;
mod processes;
mod script;
mod story;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::client::{ApiClient, ClientError};
use layout::{DemoFile, DemoNode};
use processes::Process;

/// What the command line asks for.
#[derive(Debug, Clone, Default)]
pub struct DemoOptions {
    /// Folder for everything; a fresh one under the system's temporary folder when not given.
    pub dir: Option<PathBuf>,
    /// First of five ports; free ones when not given.
    pub base_port: Option<u16>,
    /// Tell the story, check it, stop.
    pub script: bool,
    /// Kill a node during a step of the story (`STEP:NODE`, from 1), to show that it ends well all the same.
    pub kill: Option<(usize, String)>,
}

/// The pair's two processes and how to reach them.
pub(crate) struct Demo {
    pub(crate) file: DemoFile,
    pub(crate) dir: PathBuf,
    processes: Vec<Option<Process>>,
}

/// Mailboxes of the demo.
pub(crate) const MAILBOXES: [(&str, &str, &str); 3] = [
    ("2001", "Ada Lovelace", "2468"),
    ("2002", "Grace Hopper", "1357"),
    ("2003", "Reception", "9753"),
];

/// Runs the demo; prints to `out`.
pub async fn run(options: DemoOptions, out: &mut (impl Write + Send)) -> Result<(), String> {
    let dir = options.dir.clone().unwrap_or_else(fresh_dir);
    let mut demo = Demo::prepare(&dir, options.base_port)?;
    if options.script {
        return script::run(&mut demo, &options, out).await;
    }
    // The signal first: Ctrl-C while the nodes start must stop them in order too.
    let ended = tokio::select! {
        biased;
        signal = crate::serve::stop_signal() => signal.map_err(|e| e.to_string()),
        failed = stay_up(&mut demo, out) => failed,
    };
    writeln!(out, "\nStopping both nodes …").map_err(|e| e.to_string())?;
    let stopped = demo.stop().await;
    writeln!(out, "Stopped. Everything is kept in {}", demo.dir.display())
        .map_err(|e| e.to_string())?;
    ended.and(stopped)
}

/// Starts both nodes, makes the mailboxes, says so; ends only when that fails. A node that ends
/// later (somebody is trying step 2) is no reason to stop.
async fn stay_up(demo: &mut Demo, out: &mut (impl Write + Send)) -> Result<(), String> {
    for node in 0..2 {
        demo.start(node)?;
    }
    demo.wait_until_ready().await?;
    demo.write_file()?;
    create_mailboxes(&demo.client(0)?)
        .await
        .map_err(|e| e.to_string())?;
    welcome(demo, out).map_err(|e| e.to_string())?;
    std::future::pending().await
}

fn fresh_dir() -> PathBuf {
    std::env::temp_dir().join(format!("vmsync-demo-{}", std::process::id()))
}

/// Creates the demo's mailboxes; those that are there already stay as they are.
pub(crate) async fn create_mailboxes(primary: &ApiClient) -> Result<(), ClientError> {
    for (extension, name, pin) in MAILBOXES {
        let body = json!({"extension": extension, "name": name, "pin": pin, "home_system": "headquarters"});
        match primary.post("/api/v1/mailboxes", &body).await {
            Ok(_) | Err(ClientError::Problem { status: 409, .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn welcome(demo: &Demo, out: &mut impl Write) -> std::io::Result<()> {
    let [primary, secondary] = demo.file.nodes.as_slice() else {
        return Ok(());
    };
    writeln!(
        out,
        "\nA pair of voicemail servers is running; both keep every mailbox.\n"
    )?;
    for node in [primary, secondary] {
        writeln!(
            out,
            "  {:<10} {:<20} console {}/",
            node.role, node.fqdn, node.http
        )?;
        writeln!(
            out,
            "             SMTP {}   process {}   log {}",
            node.smtp,
            node.pid,
            node.log.display()
        )?;
        writeln!(out, "             token {}\n", node.admin_token)?;
    }
    writeln!(
        out,
        "Mailboxes 2001, 2002 and 2003 exist. Three things to try:\n"
    )?;
    let p = &primary.http;
    let s = &secondary.http;
    writeln!(
        out,
        "1. Leave a message at the primary, then list it at the secondary:"
    )?;
    writeln!(
        out,
        "   curl -H 'Authorization: Bearer {}' -H 'Content-Type: audio/wav' --data-binary @{} '{p}/api/v1/mailboxes/2001/messages?caller_number=5551234'",
        primary.admin_token,
        demo.dir.join("message.wav").display()
    )?;
    writeln!(
        out,
        "   curl -H 'Authorization: Bearer {}' {s}/api/v1/mailboxes/2001/messages\n",
        secondary.admin_token
    )?;
    writeln!(
        out,
        "2. Pull the plug on the primary:\n   kill -9 {}\n",
        primary.pid
    )?;
    writeln!(
        out,
        "3. Let the secondary take over (or press the button in its console):"
    )?;
    writeln!(
        out,
        "   curl -X POST -H 'Authorization: Bearer {}' {s}/api/v1/groups/primary/activate-backup\n",
        secondary.admin_token
    )?;
    writeln!(
        out,
        "   Start the primary again: {} serve --config {}",
        program(),
        primary.config.display()
    )?;
    writeln!(out, "   It catches up and gets its users back by itself.\n")?;
    writeln!(
        out,
        "Everything is in {}. Ctrl-C stops both nodes.",
        demo.dir.display()
    )?;
    out.flush()
}

fn program() -> String {
    std::env::current_exe().map_or_else(|_| "vmsync".to_owned(), |p| p.display().to_string())
}

impl Demo {
    pub(crate) fn prepare(dir: &Path, base_port: Option<u16>) -> Result<Self, String> {
        let file = layout::prepare(dir, base_port)?;
        let dir = dir
            .canonicalize()
            .map_err(|e| format!("{}: {e}", dir.display()))?;
        let wav = dir.join("message.wav");
        std::fs::write(&wav, story::ONE).map_err(|e| format!("{}: {e}", wav.display()))?;
        Ok(Self {
            file,
            dir,
            processes: vec![None, None],
        })
    }

    pub(crate) fn node(&self, node: usize) -> &DemoNode {
        &self.file.nodes[node]
    }

    pub(crate) fn client(&self, node: usize) -> Result<ApiClient, String> {
        let node = self.node(node);
        ApiClient::new(&node.http, &node.admin_token).map_err(|e| e.to_string())
    }

    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        let process = Process::start(self.node(node))?;
        self.file.nodes[node].pid = process.pid();
        self.processes[node] = Some(process);
        Ok(())
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, node: usize) -> Result<(), String> {
        if let Some(mut process) = self.processes[node].take() {
            process.kill().await?;
        }
        Ok(())
    }

    pub(crate) fn is_running(&self, node: usize) -> bool {
        self.processes[node].is_some()
    }

    pub(crate) async fn wait_until_ready(&mut self) -> Result<(), String> {
        for node in 0..2 {
            self.wait_ready(node, Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// Waits until `node` says that it is ready, at most `limit`.
    pub(crate) async fn wait_ready(&mut self, node: usize, limit: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + limit;
        let client = self.client(node)?;
        while client.get("/readyz").await.is_err() {
            self.check_alive(node)?;
            if tokio::time::Instant::now() > deadline {
                return Err(format!(
                    "{} is not ready after {} s; see {}",
                    self.node(node).id,
                    limit.as_secs(),
                    self.node(node).log.display()
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(crate) fn check_alive(&mut self, node: usize) -> Result<(), String> {
        let ended = self.processes[node].as_mut().and_then(Process::ended);
        let Some(how) = ended else { return Ok(()) };
        let log = std::fs::read_to_string(&self.node(node).log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        Err(format!(
            "{} has ended ({how}):\n{}",
            self.node(node).id,
            last.join("\n")
        ))
    }

    /// Writes `demo.json`, so that scripts can drive the pair.
    pub(crate) fn write_file(&self) -> Result<(), String> {
        let path = self.dir.join("demo.json");
        let json = serde_json::to_string_pretty(&self.file).map_err(|e| e.to_string())?;
        vmsync_store::write_file_durably(&path, json.as_bytes())
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Stops what runs, both at once.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        let mut stopped = Ok(());
        for node in 0..2 {
            let Some(mut process) = self.processes[node].take() else {
                continue;
            };
            if process.ended().is_some() {
                continue;
            }
            let id = self.node(node).id.clone();
            stopped = stopped.and(process.stop().await.map_err(|e| format!("{id}: {e}")));
        }
        stopped
    }
}
