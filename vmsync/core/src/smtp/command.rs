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
    Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_BODY_BINARYMIME, MAIL_SMTPUTF8, MailFrom,
    RcptTo, Request,
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
        /// `BODY=BINARYMIME`: the mail comes by BDAT only (RFC 3030 section 3).
        binary: bool,
    },
    Rcpt(To),
    Data,
    /// `BDAT size [LAST]`: so many octets follow.
    Bdat {
        size: u64,
        last: bool,
    },
    /// A BDAT whose size can't be read: where commands go on can't be known.
    BrokenBdat,
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
        .trim_ascii_start()
        .split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default();
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    if is("BDAT") {
        return Ok(bdat(line).unwrap_or(Command::BrokenBdat));
    }
    check_bytes(line, verb)?;
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
        // Read above; never by the parser.
        Request::Bdat { .. } => Command::BrokenBdat,
        Request::Lhlo { .. }
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
    let bodies = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_BODY_BINARYMIME;
    if (from.flags & bodies).count_ones() > 1 {
        return Err(Refusal::new(501, "5.5.4", "more than one BODY"));
    }
    let offered = from.flags & !bodies == 0
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
        binary: from.flags & MAIL_BODY_BINARYMIME != 0,
    })
}

/// RFC 3030 section 2. Read here and not by the parser, since everything hangs on the size: one misread, and a
/// chunk's octets would be taken for commands.
fn bdat(line: &[u8]) -> Option<Command> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split([' ', '\t']).filter(|w| !w.is_empty()).skip(1);
    let size = words
        .next()
        .filter(|w| w.bytes().all(|b| b.is_ascii_digit()))?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    match words.next() {
        None => Some(Command::Bdat {
            size: size.parse().ok()?,
            last,
        }),
        Some(_) => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bdat_is_read_exactly_or_not_at_all() {
        let chunk = |size, last| Ok(Command::Bdat { size, last });
        assert_eq!(parse(b"BDAT 0"), chunk(0, false));
        assert_eq!(parse(b"bdat 1000 last"), chunk(1000, true));
        assert_eq!(parse(b" BDAT  86  LAST "), chunk(86, true));
        assert_eq!(parse(b"BDAT 18446744073709551615"), chunk(u64::MAX, false));
        for broken in [
            "BDAT",
            "BDAT ",
            "BDAT LAST",
            "BDAT -1 LAST",
            "BDAT +1",
            "BDAT 0x10",
            "BDAT 1 2",
            "BDAT 1 LAST LAST",
            "BDAT 1LAST",
            "BDAT 18446744073709551616",
            "BDAT 1\0",
            "BDAT 1\u{b}LAST",
            "BDAT 1\u{a0}LAST",
        ] {
            assert_eq!(
                parse(broken.as_bytes()),
                Ok(Command::BrokenBdat),
                "{broken}"
            );
        }
    }
}
