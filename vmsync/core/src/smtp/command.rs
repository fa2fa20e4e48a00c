//! A good line into a command, by `smtp-proto`, with the strictness it lacks added around it.
//!
//! Its parser is made to be lenient. Read in its source (0.2.5), it takes: CR anywhere (never
//! reaches it, see `line`), leading spaces, blanks after `FROM:` and `TO:`, no blank before the
//! first parameter, a parameter twice (the last counts), source routes (dropped), quoted local
//! parts (unquoted), bytes over 127 in addresses, anything after DATA, RSET, QUIT and STARTTLS,
//! every registered parameter whether offered or not, a `SIZE` beyond 64 bits (starts again from
//! nothing), and it returns `<>` and `<postmaster>` alike as the empty address. What could matter of
//! that is refused or told apart here; of the rest nothing reaches a decision but the address,
//! which has to be one of ours, and `SIZE`, which is only a hint: the limit holds while data flows.

use std::borrow::Cow;

use smtp_proto::{
    Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request,
};

use super::reply::Refusal;

/// What a client may ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Ehlo(String),
    Helo(String),
    Mail {
        /// Empty for the null reverse-path.
        from: String,
        /// As announced with `SIZE=`; 0 if it wasn't.
        size: usize,
    },
    Rcpt(To),
    Data,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    StartTls,
    /// Another protocol's request: somebody turned a browser against us. No answer can be right.
    Http,
}

/// A forward-path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum To {
    /// `<local@domain>`.
    Address { local: String, domain: String },
    /// `<postmaster>`, without a domain (RFC 5321 section 4.5.1).
    Postmaster,
}

const NO_UTF8: &str = "SMTPUTF8 is not supported: addresses must be ASCII";

/// Reads one line, given without its CRLF.
pub(super) fn parse(line: &[u8]) -> Result<Command, Refusal> {
    let verb = line
        .split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default();
    check_bytes(line, verb)?;
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    if ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"]
        .into_iter()
        .any(is)
    {
        return Ok(Command::Http);
    }
    if ["DATA", "RSET", "QUIT", "STARTTLS"].into_iter().any(is) && line.trim_ascii() != verb {
        return Err(Refusal::new(501, "5.5.4", "no parameters allowed"));
    }
    let mut with_lf = line.to_vec();
    with_lf.push(b'\n');
    let request = Request::parse(&mut with_lf.iter()).map_err(|e| syntax(&e))?;
    command(request, line)
}

fn command(request: Request<Cow<'_, str>>, line: &[u8]) -> Result<Command, Refusal> {
    Ok(match request {
        Request::Ehlo { host } => Command::Ehlo(host.into_owned()),
        Request::Helo { host } => Command::Helo(host.into_owned()),
        Request::Mail { from } => mail(&from, line)?,
        Request::Rcpt { to } => Command::Rcpt(rcpt(&to, line)?),
        Request::Data => Command::Data,
        Request::Rset => Command::Rset,
        Request::Noop { .. } => Command::Noop,
        Request::Vrfy { .. } => Command::Vrfy,
        Request::Help { .. } => Command::Help,
        Request::Quit => Command::Quit,
        Request::StartTls => Command::StartTls,
        Request::Lhlo { .. }
        | Request::Bdat { .. }
        | Request::Auth { .. }
        | Request::Expn { .. }
        | Request::Etrn { .. }
        | Request::Atrn { .. }
        | Request::Burl { .. } => {
            return Err(Refusal::new(502, "5.5.1", "command not implemented"));
        }
    })
}

fn mail(from: &MailFrom<Cow<'_, str>>, line: &[u8]) -> Result<Command, Refusal> {
    if from.flags & MAIL_SMTPUTF8 != 0 {
        return Err(Refusal::new(555, "5.6.7", NO_UTF8));
    }
    let offered = from.flags & !(MAIL_BODY_7BIT | MAIL_BODY_8BITMIME) == 0
        && from.trans_id.is_none()
        && from.by == 0
        && from.env_id.is_none()
        && from.solicit.is_none()
        && from.mtrk.is_none()
        && from.auth.is_none()
        && (from.hold_for, from.hold_until, from.mt_priority) == (0, 0, 0);
    if !offered {
        return Err(not_offered());
    }
    let address = match &*from.address {
        "" if names_postmaster(line) => "postmaster".to_owned(),
        address => address.to_owned(),
    };
    Ok(Command::Mail {
        from: address,
        size: from.size,
    })
}

fn rcpt(to: &RcptTo<Cow<'_, str>>, line: &[u8]) -> Result<To, Refusal> {
    if to.flags != 0 || to.orcpt.is_some() || to.rrvs != 0 {
        return Err(not_offered());
    }
    if to.address.is_empty() && names_postmaster(line) {
        return Ok(To::Postmaster);
    }
    match to.address.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => Ok(To::Address {
            local: local.to_owned(),
            domain: domain.to_owned(),
        }),
        _ => Err(bad_recipient()),
    }
}

/// Whether the path of this line is `<postmaster>`, which the parser can't tell from `<>`.
fn names_postmaster(line: &[u8]) -> bool {
    let path = line.split(|&b| b == b'<').nth(1).unwrap_or_default();
    let path = path.split(|&b| b == b'>').next().unwrap_or_default();
    path.trim_ascii().eq_ignore_ascii_case(b"postmaster")
}

/// Commands are printable ASCII; a tab passes for a blank.
fn check_bytes(line: &[u8], verb: &[u8]) -> Result<(), Refusal> {
    if line.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err(Refusal::new(
            500,
            "5.5.2",
            "NUL or another control character in a command refused",
        ));
    }
    if line.is_ascii() {
        return Ok(());
    }
    let path = verb.eq_ignore_ascii_case(b"MAIL") || verb.eq_ignore_ascii_case(b"RCPT");
    Err(if path {
        Refusal::new(553, "5.6.7", NO_UTF8)
    } else {
        Refusal::new(500, "5.5.2", "commands must be ASCII")
    })
}

fn syntax(error: &Error) -> Refusal {
    match error {
        Error::UnknownCommand => Refusal::new(500, "5.5.1", "unknown command"),
        Error::InvalidSenderAddress => Refusal::new(501, "5.1.7", "sender address is malformed"),
        Error::InvalidRecipientAddress => bad_recipient(),
        Error::UnsupportedParameter { .. } => not_offered(),
        Error::InvalidParameter { param } => {
            Refusal::new(501, "5.5.4", format!("bad value of {param}"))
        }
        Error::SyntaxError { syntax } => Refusal::new(501, "5.5.4", format!("expected: {syntax}")),
        Error::NeedsMoreData { .. } | Error::ResponseTooLong | Error::InvalidResponse { .. } => {
            Refusal::new(501, "5.5.4", "malformed command")
        }
    }
}

fn bad_recipient() -> Refusal {
    Refusal::new(501, "5.1.3", "recipient address is malformed")
}

fn not_offered() -> Refusal {
    Refusal::new(555, "5.5.4", "parameter not offered by EHLO")
}
