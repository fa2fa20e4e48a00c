//! The story: what a pair is for, each step checked from outside (HTTP and files).
//!
//! Every step may be repeated: deposits carry keys, changes set what is already so, and checks
//! wait for what should come, within a limit. So a node may be killed anywhere and the story goes on.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Demo, MAILBOXES,
    checks::{asterisk_mail, deposit, equal_digests, get, one_message, owner, same_audio, soon},
    create_mailboxes, mailer,
};
use crate::client::Body;

/// Spoken message mailed to 2001.
pub(crate) const ONE: &[u8] = include_bytes!("../../assets/voice/one.wav");
/// Spoken message left for 2002, and later for 2003.
pub(crate) const TWO: &[u8] = include_bytes!("../../assets/voice/two.wav");
/// Spoken greeting, and the recorded call.
pub(crate) const GREETING: &[u8] = include_bytes!("../../assets/voice/greeting.wav");

const PRIMARY: usize = 0;
const SECONDARY: usize = 1;
/// How long anything may take to come about.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// How long a held failback is watched.
const HELD: Duration = Duration::from_millis(1500);
const RECORDING: &str = "2026-11-22_2003_5550199.wav";
pub(super) const MAIL_ID: &str = "<asterisk-1-2001@pbx.demo.example>";

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Ready,
    Mailboxes,
    Mail,
    Upload,
    Audible,
    KillPrimary,
    Activate,
    WorkAtBackup,
    Recording,
    Call,
    PrimaryReturns,
    Held,
    Failback,
    Proof,
}

/// All steps in order.
pub(crate) const STEPS: [Step; 14] = [
    Step::Ready,
    Step::Mailboxes,
    Step::Mail,
    Step::Upload,
    Step::Audible,
    Step::KillPrimary,
    Step::Activate,
    Step::WorkAtBackup,
    Step::Recording,
    Step::Call,
    Step::PrimaryReturns,
    Step::Held,
    Step::Failback,
    Step::Proof,
];

impl Step {
    /// What happens, in a line.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ready => "two processes start and find each other",
            Self::Mailboxes => "mailboxes 2001, 2002 and 2003 are made at the primary",
            Self::Mail => "a PBX mails a voice message for 2001 to the primary",
            Self::Upload => "a message for 2002 is uploaded over HTTP",
            Self::Audible => "both messages are heard at the secondary, byte for byte",
            Self::KillPrimary => "the primary is killed (kill -9)",
            Self::Activate => "Activate Backup Server at the secondary",
            Self::WorkAtBackup => "the secondary takes a message, a played mark and a new greeting",
            Self::Recording => "a call recording is made at the secondary",
            Self::Call => "a caller is connected to the secondary",
            Self::PrimaryReturns => "the primary returns and catches up, but does not serve yet",
            Self::Held => "the call holds the graceful failback",
            Self::Failback => "the call ends and the primary gets its users back",
            Self::Proof => "everything is on the primary, and both nodes hold the same",
        }
    }
}

/// What the story remembers.
#[derive(Default)]
pub(crate) struct Story {
    call: Option<String>,
    call_lost: bool,
}

impl Story {
    /// Performs a step and checks it; says what was seen.
    pub(crate) async fn step(&mut self, demo: &mut Demo, step: Step) -> Result<String, String> {
        match step {
            Step::Ready => ready(demo).await,
            Step::Mailboxes => mailboxes(demo).await,
            Step::Mail => mail(demo).await,
            Step::Upload => upload(demo).await,
            Step::Audible => audible(demo).await,
            Step::KillPrimary => kill_primary(demo).await,
            Step::Activate => activate(demo).await,
            Step::WorkAtBackup => work_at_backup(demo).await,
            Step::Recording => recording(demo).await,
            Step::Call => self.call(demo).await,
            Step::PrimaryReturns => self.primary_returns(demo).await,
            Step::Held => self.held(demo).await,
            Step::Failback => self.failback(demo).await,
            Step::Proof => proof(demo).await,
        }
    }

    /// `node` was killed: a call over HTTP ends with the process that held it.
    pub(crate) fn disturbed_node(&mut self, node: usize) {
        if node == SECONDARY && self.call.is_some() {
            self.call_lost = true;
        }
    }

    async fn call(&mut self, demo: &Demo) -> Result<String, String> {
        let backup = demo.client(SECONDARY)?;
        let body = json!({"kind": "leave", "mailbox": "2003", "caller_number": "5550123"});
        let call = soon("start a call", || async {
            backup
                .post("/api/v1/calls", &body)
                .await
                .map_err(|e| e.to_string())
        })
        .await?;
        let id = call["id"].as_str().ok_or("the call has no id")?.to_owned();
        self.call = Some(id.clone());
        self.call_lost = false;
        let first = call["actions"][0].to_string();
        Ok(format!("call {id}; the call flow begins with {first}"))
    }

    async fn primary_returns(&mut self, demo: &mut Demo) -> Result<String, String> {
        if !demo.is_running(PRIMARY) {
            demo.start(PRIMARY)?;
        }
        demo.wait_until_ready().await?;
        if self.call_lost {
            self.call(demo).await?;
        }
        let primary = demo.client(PRIMARY)?;
        let synced = soon("the primary to hold what the secondary took", || async {
            let status = get(&primary, "/api/v1/status").await?;
            let (state, digests) = (
                status["sync"]["in"]["state"].clone(),
                equal_digests(&status),
            );
            if state == "finished" && digests {
                Ok(status)
            } else {
                Err(format!("sync in is {state}, digests equal: {digests}"))
            }
        })
        .await?;
        let owner = owner(&synced)?;
        if owner == "vmpro1" && !self.call_lost {
            return Err("the primary serves although a call is active on the backup".to_owned());
        }
        let body = Body::Audio("audio/wav", TWO.to_vec());
        let reply = primary
            .call(Method::POST, "/api/v1/mailboxes/2003/messages", &[], body)
            .await
            .map_err(|e| e.to_string())?;
        if reply.status != 307 {
            return Err(format!(
                "a deposit at the primary was answered with {}, not 307",
                reply.status
            ));
        }
        let to = reply.location.unwrap_or_default();
        let wanted = &demo.node(SECONDARY).http;
        if !to.starts_with(wanted) {
            return Err(format!("the 307 points to {to}, not to {wanted}"));
        }
        Ok(format!(
            "synchronised; {owner} still serves, a deposit at vmpro1 is sent on with 307 to {to}"
        ))
    }

    async fn held(&mut self, demo: &Demo) -> Result<String, String> {
        let backup = demo.client(SECONDARY)?;
        let until = tokio::time::Instant::now() + HELD;
        let mut waiting = Vec::new();
        while tokio::time::Instant::now() < until {
            let status = soon("the secondary's status", || get(&backup, "/api/v1/status")).await?;
            if self.call_lost {
                return Ok(
                    "the call was lost with its process; nothing is left to hold failback"
                        .to_owned(),
                );
            }
            if owner(&status)? != "vmpro2" {
                return Err("failback happened with a call active".to_owned());
            }
            waiting = status["groups"][0]["failback"]["waiting_for"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if waiting.is_empty() {
            return Err("status does not say what failback waits for".to_owned());
        }
        let words: Vec<_> = waiting.iter().filter_map(Value::as_str).collect();
        Ok(format!("failback waits for: {}", words.join("; ")))
    }

    async fn failback(&mut self, demo: &Demo) -> Result<String, String> {
        let backup = demo.client(SECONDARY)?;
        if let Some(id) = &self.call {
            let path = format!("/api/v1/calls/{id}");
            soon("end the call", || async {
                let reply = backup
                    .call(Method::DELETE, &path, &[], Body::None)
                    .await
                    .map_err(|e| e.to_string())?;
                // Not found: it ended with an earlier try, or with its process.
                if reply.status.is_success() || reply.status == 404 {
                    Ok(())
                } else {
                    Err(reply.status.to_string())
                }
            })
            .await?;
        }
        let mut seen = Vec::new();
        for node in [PRIMARY, SECONDARY] {
            let client = demo.client(node)?;
            let status = soon("graceful failback", || async {
                let status = get(&client, "/api/v1/status").await?;
                let owner = owner(&status)?;
                if owner == "vmpro1" {
                    Ok(status)
                } else {
                    Err(format!("{owner} still serves"))
                }
            })
            .await?;
            seen.push(status["groups"][0].clone());
        }
        // A node that was just killed tells its group before it is ready to say more.
        let path = "/api/v1/route?mailbox=2001";
        let route = soon("who serves 2001", || get(&backup, path)).await?;
        if route["owner"] != "vmpro1" {
            return Err(format!("route says {route}"));
        }
        Ok(format!(
            "epoch {} on both: {}",
            seen[0]["epoch"],
            seen[0]["reason"].as_str().unwrap_or_default()
        ))
    }
}

/// Whether `node` is meant to be down after `step`.
pub(crate) fn wants_down(step: Step, node: usize) -> bool {
    node == PRIMARY
        && matches!(
            step,
            Step::KillPrimary | Step::Activate | Step::WorkAtBackup | Step::Recording | Step::Call
        )
}

async fn ready(demo: &mut Demo) -> Result<String, String> {
    for node in [PRIMARY, SECONDARY] {
        if !demo.is_running(node) {
            demo.start(node)?;
        }
    }
    demo.wait_until_ready().await?;
    demo.write_file()?;
    let mut seen = Vec::new();
    for node in [PRIMARY, SECONDARY] {
        let client = demo.client(node)?;
        let status = soon("both directions to finish", || async {
            let status = get(&client, "/api/v1/status").await?;
            let done = status["sync"]["out"]["state"] == "finished"
                && status["sync"]["in"]["state"] == "finished";
            if done {
                Ok(status)
            } else {
                Err(status["sync"].to_string())
            }
        })
        .await?;
        seen.push(format!(
            "{} is {}",
            demo.node(node).id,
            status["node"]["voicemail_type"].as_str().unwrap_or("?")
        ));
    }
    Ok(format!(
        "synchronisation finished over SMTP; {}",
        seen.join(", ")
    ))
}

async fn mailboxes(demo: &Demo) -> Result<String, String> {
    let primary = demo.client(PRIMARY)?;
    soon("make the mailboxes", || async {
        create_mailboxes(&primary).await.map_err(|e| e.to_string())
    })
    .await?;
    let secondary = demo.client(SECONDARY)?;
    for (extension, name, _) in MAILBOXES {
        let path = format!("/api/v1/mailboxes/{extension}");
        soon("the mailbox at the secondary", || async {
            let mailbox = get(&secondary, &path).await?;
            if mailbox["name"] == name {
                Ok(())
            } else {
                Err(mailbox.to_string())
            }
        })
        .await?;
    }
    Ok("all three are at the secondary too".to_owned())
}

async fn mail(demo: &Demo) -> Result<String, String> {
    let node = demo.node(PRIMARY);
    let text = asterisk_mail(&node.fqdn);
    let to = format!("2001@{}", node.fqdn);
    soon("mail to the primary", || {
        mailer::send(&node.smtp, "asterisk@pbx.demo.example", &to, &text)
    })
    .await?;
    let message = one_message(&demo.client(PRIMARY)?, "2001", "5551234").await?;
    Ok(format!(
        "taken as message {} of {} ms",
        message["id"].as_str().unwrap_or("?"),
        message["duration_ms"]
    ))
}

async fn upload(demo: &Demo) -> Result<String, String> {
    let primary = demo.client(PRIMARY)?;
    let id = deposit(&primary, "2002", "5555678", "demo-2002-1").await?;
    Ok(format!("taken as message {id}"))
}

async fn audible(demo: &Demo) -> Result<String, String> {
    let secondary = demo.client(SECONDARY)?;
    for (mailbox, caller, wav) in [("2001", "5551234", ONE), ("2002", "5555678", TWO)] {
        same_audio(&secondary, mailbox, caller, wav).await?;
    }
    Ok(format!("{} and {} bytes, equal", ONE.len(), TWO.len()))
}

async fn kill_primary(demo: &mut Demo) -> Result<String, String> {
    let pid = demo.node(PRIMARY).pid;
    demo.kill(PRIMARY).await?;
    let primary = demo.client(PRIMARY)?;
    if primary.get("/healthz").await.is_ok() {
        return Err("the primary still answers".to_owned());
    }
    Ok(format!("process {pid} is gone"))
}

async fn activate(demo: &Demo) -> Result<String, String> {
    let backup = demo.client(SECONDARY)?;
    let body = json!({"reason": "demo: the primary was killed"});
    soon("activate the backup", || async {
        let reply = backup
            .call(
                Method::POST,
                "/api/v1/groups/primary/activate-backup",
                &[],
                Body::Json(&body),
            )
            .await
            .map_err(|e| e.to_string())?;
        let answer = reply.json();
        if reply.status == 202 || answer["code"] == "already_there" {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    })
    .await?;
    let status = soon("the secondary to serve", || async {
        let status = get(&backup, "/api/v1/status").await?;
        if owner(&status)? == "vmpro2" {
            Ok(status)
        } else {
            Err("vmpro1 still owns the group".to_owned())
        }
    })
    .await?;
    Ok(format!(
        "vmpro2 serves, epoch {}",
        status["groups"][0]["epoch"]
    ))
}

async fn work_at_backup(demo: &Demo) -> Result<String, String> {
    let backup = demo.client(SECONDARY)?;
    let id = deposit(&backup, "2003", "5559999", "demo-2003-1").await?;
    let played = one_message(&backup, "2001", "5551234").await?;
    let path = format!(
        "/api/v1/mailboxes/2001/messages/{}",
        played["id"].as_str().unwrap_or_default()
    );
    let old = json!({"state": "old"});
    soon("mark the message played", || async {
        backup
            .ok(Method::PATCH, &path, &[], Body::Json(&old))
            .await
            .map_err(|e| e.to_string())
    })
    .await?;
    soon("set the greeting", || async {
        let body = Body::Audio("audio/wav", GREETING.to_vec());
        backup
            .ok(
                Method::PUT,
                "/api/v1/mailboxes/2001/greetings/standard",
                &[],
                body,
            )
            .await
            .map_err(|e| e.to_string())
    })
    .await?;
    Ok(format!(
        "message {id} for 2003; 2001's message is old; 2001 has a new greeting"
    ))
}

async fn recording(demo: &Demo) -> Result<String, String> {
    let backup = demo.client(SECONDARY)?;
    let path = format!("/api/v1/vrl/recordings?name={RECORDING}");
    soon("hand in the recording", || async {
        let body = Body::Audio("audio/wav", GREETING.to_vec());
        backup
            .ok(Method::POST, &path, &[], body)
            .await
            .map_err(|e| e.to_string())
    })
    .await?;
    let file = demo.node(SECONDARY).vrl_dir.join(RECORDING);
    let there = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    if there != GREETING {
        return Err(format!("{} has other content", file.display()));
    }
    Ok(format!("{} holds {} bytes", file.display(), there.len()))
}

async fn proof(demo: &Demo) -> Result<String, String> {
    let primary = demo.client(PRIMARY)?;
    for (mailbox, caller, wav) in [
        ("2001", "5551234", ONE),
        ("2002", "5555678", TWO),
        ("2003", "5559999", TWO),
    ] {
        same_audio(&primary, mailbox, caller, wav).await?;
    }
    let greeting = primary
        .get_bytes("/api/v1/mailboxes/2001/greetings/standard")
        .await
        .map_err(|e| e.to_string())?;
    if greeting != GREETING {
        return Err("the primary's greeting of 2001 differs".to_owned());
    }
    let (here, there) = (
        demo.node(PRIMARY).vrl_dir.join(RECORDING),
        demo.node(SECONDARY).vrl_dir.join(RECORDING),
    );
    soon("the recording to move by FTP", || async {
        match std::fs::read(&here) {
            Ok(bytes) if bytes != GREETING => Err(format!("{} has other content", here.display())),
            Ok(_) if there.exists() => Err(format!("{} is still there", there.display())),
            Ok(_) => Ok(()),
            Err(e) => Err(format!("{}: {e}", here.display())),
        }
    })
    .await?;
    let mut digests = Vec::new();
    for node in [PRIMARY, SECONDARY] {
        let client = demo.client(node)?;
        for (mailbox, new) in [("2001", 0), ("2002", 1), ("2003", 1)] {
            let path = format!("/api/v1/mailboxes/{mailbox}/mwi");
            soon("the message waiting indicator", || async {
                let mwi = get(&client, &path).await?;
                let right = mwi["new"] == new && mwi["on"] == (new > 0);
                if right {
                    Ok(())
                } else {
                    Err(format!("{mailbox}: {mwi}, expected {new} new"))
                }
            })
            .await?;
        }
        let status = soon("equal digests", || async {
            let status = get(&client, "/api/v1/status").await?;
            if equal_digests(&status) {
                Ok(status)
            } else {
                Err(status["sync"].to_string())
            }
        })
        .await?;
        digests.push(
            status["sync"]["digest"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    if digests[0] != digests[1] {
        return Err(format!("digests differ: {} and {}", digests[0], digests[1]));
    }
    Ok(format!(
        "3 messages, greeting and recording are at the primary; MWI 0/1/1 on both; digest {}… on both",
        digests[0].chars().take(16).collect::<String>()
    ))
}
