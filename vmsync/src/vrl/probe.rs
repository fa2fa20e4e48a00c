//! Test Connection (R-VR-2): every setting of the move, end to end, with the step that failed,
//! the server's own words, and what to do about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::Now;

use super::ftp::{Account, Fault, FtpFailure, Session, resolve};

/// One step of Test Connection. The first that fails is the last one answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestStep {
    /// `resolve`, `connect`, `tls`, `login`, `location`, `write`, `read`, `rename` or `delete`.
    pub step: String,
    /// Whether it worked.
    pub ok: bool,
    /// How long it took, milliseconds.
    pub ms: u64,
    /// What was found, or the server's words.
    pub detail: String,
    /// What to do, where it failed.
    pub advice: Option<String>,
}

const CONTENT: &[u8] = b"vmsync Test Connection\r\n\x00\n\xff";

struct Steps {
    done: Vec<TestStep>,
    now: fn() -> Now,
    since: Duration,
}

impl Steps {
    fn note<T>(
        &mut self,
        step: &str,
        result: Result<T, FtpFailure>,
        detail: impl FnOnce(&T) -> String,
        advice: &str,
    ) -> Option<T> {
        let mono = (self.now)().mono;
        let took = mono.saturating_sub(self.since);
        self.since = mono;
        let (detail, advice) = match &result {
            Ok(v) => (detail(v), None),
            Err(e) => (e.to_string(), Some(special(e).unwrap_or(advice).to_owned())),
        };
        self.done.push(TestStep {
            step: step.to_owned(),
            ok: result.is_ok(),
            ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            detail,
            advice,
        });
        result.ok()
    }
}

/// Runs the test. It leaves nothing behind on the server where it may delete.
pub async fn run(account: &Account, now: fn() -> Now) -> Vec<TestStep> {
    let mut steps = Steps {
        done: Vec::new(),
        now,
        since: now().mono,
    };
    walk(account, &mut steps).await;
    steps.done
}

// `None` as soon as a step fails; the steps tell which.
async fn walk(account: &Account, steps: &mut Steps) -> Option<()> {
    let remote = &account.remote;
    let found = steps.note(
        "resolve",
        resolve(account).await,
        |a| {
            a.iter()
                .map(|a| a.ip().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        },
        "check remote_host in [vrl] and this node's DNS",
    )?;
    let session = steps.note(
        "connect",
        Session::connect(account, &found).await,
        |_| format!("the server on port {} greets", remote.port),
        "check that the FTP server runs on the primary, remote_port, and the firewalls between",
    )?;
    let mut session = steps.note(
        "tls",
        session.secure(account).await,
        |_| format!("{:?}", remote.tls).to_lowercase(),
        "check that the server offers explicit TLS, that its certificate is signed by [tls] ca and bears remote_host",
    )?;
    steps.note(
        "login",
        session.login(account).await,
        |()| format!("as {}", remote.user),
        "check ftp_user and ftp_password_file against the account on the primary",
    )?;
    steps.note(
        "location",
        session.enter(&remote.location).await,
        |()| remote.location.clone(),
        "check remote_location; the account must be allowed to open or create it",
    )?;
    let unique = format!("{:08x}", rand::random::<u32>());
    let name = format!(".vmsync-test-{unique}.part");
    let wrote = write(&mut session, &name).await;
    steps.note(
        "write",
        wrote,
        |()| format!("{} bytes to {name}", CONTENT.len()),
        "the account needs the right to write in remote_location, the disk some space, and the passive ports of the server must be reachable",
    )?;
    steps.note(
        "read",
        read_back(&mut session, &name).await,
        |()| "the same bytes came back".to_owned(),
        "the account needs the right to read, and the server must keep binary files as they are",
    )?;
    let renamed = format!(".vmsync-test-{unique}-renamed.part");
    steps.note(
        "rename",
        session.rename(&name, &renamed).await,
        |()| format!("to {renamed}"),
        "the account needs the right to rename in remote_location",
    )?;
    steps.note(
        "delete",
        session.delete(&renamed).await,
        |()| "nothing is left behind".to_owned(),
        "the account needs the right to delete unfinished uploads in remote_location",
    )?;
    session.quit().await;
    Some(())
}

async fn write(session: &mut Session, name: &str) -> Result<(), FtpFailure> {
    session.upload_bytes(CONTENT, name).await?;
    match session.size(name).await? {
        Some(n) if n == CONTENT.len() as u64 => Ok(()),
        other => Err(FtpFailure {
            doing: format!("asking for the length of {name}"),
            words: format!("{other:?} instead of {}", CONTENT.len()),
            fault: Fault::Local,
        }),
    }
}

async fn read_back(session: &mut Session, name: &str) -> Result<(), FtpFailure> {
    let got = session.read(name, 4096).await?;
    if got == CONTENT {
        return Ok(());
    }
    Err(FtpFailure {
        doing: format!("reading {name} back"),
        words: format!(
            "{} bytes came back that differ from the {} written",
            got.len(),
            CONTENT.len()
        ),
        fault: Fault::Local,
    })
}

fn special(e: &FtpFailure) -> Option<&'static str> {
    match e.fault {
        Fault::Local if e.doing.starts_with("reading the password file") => {
            Some("check that ftp_password_file exists and that vmsync may read it")
        }
        Fault::Refused(421) => Some("the server takes no more connections now; try again later"),
        Fault::Refused(452 | 552) => Some("free some disk space on the primary"),
        Fault::Refused(534 | 521 | 522) => {
            Some("the server insists on TLS or refuses it; make [vrl] tls agree with the server")
        }
        _ => None,
    }
}
