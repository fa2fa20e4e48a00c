//! FTP command lines, read into commands (RFC 959, 2389, 2428, 3659, 4217). Pure.

use zeroize::Zeroizing;

/// Longest command line, bytes; names have at most 240.
pub(crate) const MAX_LINE: usize = 1024;

/// A command of the client. Never logged: one carries the password.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    User(String),
    Pass(Zeroizing<String>),
    AuthTls,
    Pbsz,
    /// `PROT P` (true) or `PROT C`.
    Prot(bool),
    /// `TYPE I` or `TYPE A`; both are taken as binary, which is what a recording is.
    Type,
    Epsv,
    Pasv,
    Cwd(String),
    Pwd,
    Size(String),
    Mdtm(String),
    Stor(String),
    Retr(String),
    Rest(u64),
    RenameFrom(String),
    RenameTo(String),
    Dele(String),
    Mkd(String),
    List,
    Nlst,
    Feat,
    Syst,
    OptsUtf8,
    Noop,
    Quit,
    /// Known to FTP, not offered here.
    NotOffered,
    /// Not a command, or with arguments that make no sense.
    Malformed,
}

/// Reads one line, without its line end.
pub(crate) fn parse(line: &str) -> Command {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let named = |make: fn(String) -> Command| {
        if rest.is_empty() {
            Command::Malformed
        } else {
            make(rest.to_owned())
        }
    };
    match verb.to_ascii_uppercase().as_str() {
        "USER" => named(Command::User),
        "PASS" => Command::Pass(Zeroizing::new(rest.to_owned())),
        "AUTH" if is_one_of(rest, &["TLS", "TLS-C", "SSL"]) => Command::AuthTls,
        "PBSZ" => Command::Pbsz,
        "PROT" if is_one_of(rest, &["P"]) => Command::Prot(true),
        "PROT" if is_one_of(rest, &["C"]) => Command::Prot(false),
        "TYPE" if is_one_of(rest, &["I", "A", "A N", "L 8"]) => Command::Type,
        "MODE" if is_one_of(rest, &["S"]) => Command::Type,
        "STRU" if is_one_of(rest, &["F"]) => Command::Type,
        "EPSV" => Command::Epsv,
        "PASV" => Command::Pasv,
        "CWD" | "XCWD" => named(Command::Cwd),
        "CDUP" | "XCUP" => Command::Cwd("..".to_owned()),
        "PWD" | "XPWD" => Command::Pwd,
        "SIZE" => named(Command::Size),
        "MDTM" => named(Command::Mdtm),
        "STOR" => named(Command::Stor),
        "RETR" => named(Command::Retr),
        "REST" => rest.parse().map_or(Command::Malformed, Command::Rest),
        "RNFR" => named(Command::RenameFrom),
        "RNTO" => named(Command::RenameTo),
        "DELE" => named(Command::Dele),
        "MKD" | "XMKD" => named(Command::Mkd),
        "LIST" => Command::List,
        "NLST" => Command::Nlst,
        "FEAT" => Command::Feat,
        "SYST" => Command::Syst,
        "OPTS" if rest.to_ascii_uppercase().starts_with("UTF8") => Command::OptsUtf8,
        "NOOP" | "ALLO" => Command::Noop,
        "QUIT" => Command::Quit,
        "APPE" | "STOU" | "RMD" | "XRMD" | "PORT" | "EPRT" | "SITE" | "ABOR" | "STAT" | "HELP"
        | "ACCT" | "CCC" | "REIN" | "SMNT" | "MLSD" | "MLST" | "AUTH" | "PROT" | "TYPE"
        | "MODE" | "STRU" | "OPTS" => Command::NotOffered,
        _ => Command::Malformed,
    }
}

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|w| text.trim().eq_ignore_ascii_case(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_clients_write_them() {
        for (line, command) in [
            ("USER vrl", Command::User("vrl".into())),
            ("auth tls", Command::AuthTls),
            ("PROT P", Command::Prot(true)),
            ("TYPE I", Command::Type),
            (
                "STOR Gespräch mit Jörg.wav",
                Command::Stor("Gespräch mit Jörg.wav".into()),
            ),
            ("STOR  two spaces", Command::Stor(" two spaces".into())),
            ("REST 100", Command::Rest(100)),
            ("REST -1", Command::Malformed),
            ("STOR", Command::Malformed),
            ("PORT 1,2,3,4,5,6", Command::NotOffered),
            ("TYPE E", Command::NotOffered),
            ("GET / HTTP/1.1", Command::Malformed),
            ("", Command::Malformed),
        ] {
            assert_eq!(parse(line), command, "{line}");
        }
    }

    #[test]
    fn a_password_is_taken_as_it_is() {
        assert!(matches!(parse("pass  two  words "), Command::Pass(p) if *p == " two  words "));
    }
}
