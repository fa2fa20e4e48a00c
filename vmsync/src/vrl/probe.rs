//! Test Connection (R-VR-2): every setting of the move, end to end, with the step that failed,
//! the server's own words, and what to do about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::Now;

use super::{
    foreign::{self, VerifyBy},
    ftp::{Account, Fault, FtpFailure, Offer, Session, resolve},
};

/// One step of Test Connection. The first that fails is the last one answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestStep {
    /// `resolve`, `connect`, `tls`, `login`, `location`, `write`, `read`, `verify`, `rename` or `delete`.
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
            Err(e) => (
                e.to_string(),
                Some(special(step, e).unwrap_or(advice).to_owned()),
            ),
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
    steps.note(
        "verify",
        verify(&mut session, account, &name).await,
        String::clone,
        "set vrl.verify to a way that this server has",
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
        delete(&mut session, &renamed).await,
        |there| format!("nothing is left behind{there}"),
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

/// By which way recordings are found to have arrived, tried with what was written; and which others there are.
async fn verify(
    session: &mut Session,
    account: &Account,
    name: &str,
) -> Result<String, FtpFailure> {
    let offers: Vec<_> = session
        .hashes()
        .await?
        .into_iter()
        .map(Offer::words)
        .collect();
    let offers = if offers.is_empty() {
        "the FTP server has no hash".to_owned()
    } else {
        format!("the FTP server has {}", offers.join(", "))
    };
    Ok(match VerifyBy::configured(account.remote.verify) {
        None => format!("the primary's node will say what arrived; {offers}"),
        Some(VerifyBy::ReadBack) => format!("by reading back, as just done; {offers}"),
        Some(VerifyBy::Hash) => {
            let way = foreign::check_bytes(session, CONTENT, name).await?;
            format!("{} is what was written; {offers}", way.words())
        }
    })
}

/// Deletes, and looks around. That a folder is not listed is no matter.
async fn delete(session: &mut Session, name: &str) -> Result<String, FtpFailure> {
    session.delete(name).await?;
    let Ok(listing) = session.list().await else {
        return Ok(String::new());
    };
    let files = listing.entries.iter().filter(|e| e.is_file).count();
    let more = if listing.whole { "" } else { " or more" };
    Ok(format!("; {files}{more} files are there"))
}

/// What to do about failures that can be told apart better than by the step.
fn special(step: &str, e: &FtpFailure) -> Option<&'static str> {
    let words = e.words.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|w| words.contains(w));
    Some(match e.fault {
        Fault::Local if e.doing.starts_with("reading the password file") => {
            "check that ftp_password_file exists and that vmsync may read it"
        }
        Fault::Busy => {
            "the server takes no more connections now: try again later, or raise its limit (vsftpd max_clients and max_per_ip, Pure-FTPd -c and -C, ProFTPD MaxClients and MaxClientsPerHost)"
        }
        Fault::DataPort | Fault::Refused(425) => {
            "open the server's passive ports in every firewall between (vsftpd pasv_min_port and pasv_max_port, Pure-FTPd -p, ProFTPD PassivePorts)"
        }
        Fault::Refused(522) => {
            "the server wants data connections to resume the TLS session: allow new ones (vsftpd require_ssl_reuse=NO, ProFTPD TLSOptions NoSessionReuseRequired)"
        }
        Fault::Refused(534 | 521) => {
            "the server insists on TLS or refuses it; make [vrl] tls agree with the server"
        }
        Fault::Refused(_) if step == "login" && says(&["tls", "ssl", "encrypt", "cleartext"]) => {
            "the server insists on TLS: set [vrl] tls to \"required\""
        }
        Fault::Tls if says(&["unknownissuer", "badsignature"]) => {
            "the server's certificate is not signed by [tls] ca: give the server one of the pair's CA"
        }
        Fault::Tls if says(&["notvalidforname", "not valid for name"]) => {
            "the server's certificate does not bear remote_host: set remote_host to a name in it, or renew it with that name"
        }
        Fault::Tls if says(&["expired", "notvalidyet", "not valid yet"]) => {
            "the server's certificate is out of date, or a clock is wrong"
        }
        Fault::Refused(452 | 552) => "free some disk space on the primary",
        Fault::Refused(_)
            if step == "write"
                && says(&["no space", "disk", "quota", "local file", "write to file"]) =>
        {
            "free some disk space on the primary, or raise the account's quota"
        }
        _ => return None,
    })
}
