//! FTP command lines, read into commands (RFC 959, 2389, 2428, 3659, 4217; HASH of
//! draft-bryan-ftpext-hash). Pure.

use zeroize::Zeroizing;

/// Longest command line, bytes; names have at most 255.
const MAX_LINE: usize = 1024;

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
    Epsv(Epsv),
    Pasv,
    Cwd(String),
    Pwd,
    Size(String),
    Mdtm(String),
    Stor(String),
    Appe(String),
    Retr(String),
    Rest(u64),
    RenameFrom(String),
    RenameTo(String),
    Dele(String),
    Mkd(String),
    /// Bytes to come.
    Allo(u64),
    List(Form, Option<String>),
    /// `MLST`: facts of one file or folder, on the control connection.
    Facts(Option<String>),
    Hash(String),
    Xsha256(String),
    /// `OPTS HASH` and the algorithm, if one is chosen.
    OptsHash(Option<String>),
    /// `OPTS MLST`: the facts wanted.
    OptsMlst(String),
    OptsUtf8,
    Feat,
    Syst,
    Stat,
    Abor,
    Noop,
    Quit,
    /// Known to FTP, not offered here.
    NotOffered,
    /// Offered, not with this parameter.
    WrongParameter,
    /// Not a command, or with arguments that make no sense.
    Malformed,
}

/// What EPSV is asked for (RFC 2428 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Epsv {
    /// A port, over the protocol of this connection.
    Any,
    /// A port over IPv4 (1) or IPv6 (2).
    Over(u8),
    /// From now on nothing but EPSV.
    All,
}

/// How a folder is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As `ls -l` does.
    Long,
    /// Names alone.
    Names,
    /// RFC 3659 section 7.
    Facts,
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
    let one_of = |words: &[&str], command: Command| {
        if is_one_of(rest, words) {
            command
        } else {
            Command::WrongParameter
        }
    };
    let optional = || (!rest.is_empty()).then(|| rest.to_owned());
    match verb.to_ascii_uppercase().as_str() {
        "USER" => named(Command::User),
        "PASS" => Command::Pass(Zeroizing::new(rest.to_owned())),
        "AUTH" => one_of(&["TLS", "TLS-C", "SSL"], Command::AuthTls),
        "PBSZ" => Command::Pbsz,
        "PROT" if is_one_of(rest, &["P"]) => Command::Prot(true),
        "PROT" => one_of(&["C"], Command::Prot(false)),
        "TYPE" => one_of(&["I", "A", "A N", "L 8"], Command::Type),
        "MODE" => one_of(&["S"], Command::Type),
        "STRU" => one_of(&["F"], Command::Type),
        "EPSV" => epsv(rest),
        "PASV" => Command::Pasv,
        "CWD" | "XCWD" => named(Command::Cwd),
        "CDUP" | "XCUP" => Command::Cwd("..".to_owned()),
        "PWD" | "XPWD" => Command::Pwd,
        "SIZE" => named(Command::Size),
        "MDTM" => named(Command::Mdtm),
        "STOR" => named(Command::Stor),
        "APPE" => named(Command::Appe),
        "RETR" => named(Command::Retr),
        "REST" => rest.parse().map_or(Command::Malformed, Command::Rest),
        "RNFR" => named(Command::RenameFrom),
        "RNTO" => named(Command::RenameTo),
        "DELE" => named(Command::Dele),
        "MKD" | "XMKD" => named(Command::Mkd),
        "ALLO" => {
            let bytes = rest.split(' ').next().unwrap_or_default();
            bytes.parse().map_or(Command::Malformed, Command::Allo)
        }
        "LIST" => Command::List(Form::Long, path_of_listing(rest)),
        "NLST" => Command::List(Form::Names, path_of_listing(rest)),
        "MLSD" => Command::List(Form::Facts, optional()),
        "MLST" => Command::Facts(optional()),
        "HASH" => named(Command::Hash),
        "XSHA256" => named(Command::Xsha256),
        "FEAT" => Command::Feat,
        "SYST" => Command::Syst,
        "OPTS" => options(rest),
        "STAT" => Command::Stat,
        "ABOR" => Command::Abor,
        "NOOP" => Command::Noop,
        "QUIT" => Command::Quit,
        "STOU" | "RMD" | "XRMD" | "PORT" | "EPRT" | "SITE" | "HELP" | "ACCT" | "CCC" | "REIN"
        | "SMNT" | "RANG" | "MFMT" | "LANG" | "HOST" => Command::NotOffered,
        _ => Command::Malformed,
    }
}

fn epsv(rest: &str) -> Command {
    match rest.trim() {
        "" => Command::Epsv(Epsv::Any),
        all if all.eq_ignore_ascii_case("ALL") => Command::Epsv(Epsv::All),
        protocol => protocol
            .parse()
            .map_or(Command::Malformed, |p| Command::Epsv(Epsv::Over(p))),
    }
}

fn options(rest: &str) -> Command {
    let (of, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match of.to_ascii_uppercase().as_str() {
        "UTF8" | "UTF-8" if !rest.trim().eq_ignore_ascii_case("OFF") => Command::OptsUtf8,
        "HASH" => Command::OptsHash((!rest.is_empty()).then(|| rest.trim().to_owned())),
        "MLST" => Command::OptsMlst(rest.to_owned()),
        _ => Command::WrongParameter,
    }
}

/// What LIST is asked about: many clients write options of `ls` before it.
fn path_of_listing(rest: &str) -> Option<String> {
    let mut rest = rest.trim_start();
    while let Some(option) = rest.strip_prefix('-') {
        let (option, after) = option.split_once(' ').unwrap_or((option, ""));
        rest = after.trim_start();
        if option == "-" {
            break;
        }
    }
    (!rest.is_empty()).then(|| rest.to_owned())
}

/// Cuts what a client sends into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The line before ended without its last byte, which may still come.
    cut_short: bool,
}

/// What was taken.
pub(crate) struct Taken {
    /// Of the bytes given.
    pub(crate) bytes: usize,
    /// A line, if it is whole; without its end and without signals of Telnet.
    pub(crate) line: Option<Vec<u8>>,
}

impl Lines {
    /// Takes the rest of a line, or all there is.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Taken {
        if std::mem::take(&mut self.cut_short) && bytes.first() == Some(&b'\n') {
            return Taken {
                bytes: 1,
                line: None,
            };
        }
        let end = bytes.iter().position(|b| *b == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let room = MAX_LINE.saturating_sub(self.partial.len());
        let kept = bytes.get(..taken.min(room)).unwrap_or_default();
        self.partial.extend_from_slice(kept);
        let mut line = without_telnet(&self.partial);
        // Some clients send ABOR as urgent data, of which the last byte does not come this way.
        self.cut_short = end.is_none() && line.eq_ignore_ascii_case(b"ABOR\r");
        let whole = self.cut_short || (end.is_some() && taken <= room);
        if !whole {
            return Taken {
                bytes: taken,
                line: None,
            };
        }
        self.partial.clear();
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Taken {
            bytes: taken,
            line: Some(line),
        }
    }

    /// Whether there is no end of the line in sight: what follows can't be told from commands.
    pub(crate) fn is_too_long(&self) -> bool {
        self.partial.len() >= MAX_LINE
    }
}

/// A line without the signals of Telnet that clients send before ABOR (RFC 959 section 4.1.3). No
/// text in UTF-8 holds their first byte.
fn without_telnet(line: &[u8]) -> Vec<u8> {
    const IAC: u8 = 0xFF;
    let mut out = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != IAC {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            // WILL, WON'T, DO, DON'T and what of.
            Some(251..=254) => drop(bytes.next()),
            // A mark whose urgent byte was lost on the way.
            Some(byte) if byte.is_ascii() => out.push(byte),
            _ => {}
        }
    }
    out
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
            ("AUTH GSSAPI", Command::WrongParameter),
            ("PROT P", Command::Prot(true)),
            ("PROT S", Command::WrongParameter),
            ("TYPE I", Command::Type),
            ("TYPE E", Command::WrongParameter),
            ("MODE Z", Command::WrongParameter),
            (
                "STOR Gespräch mit Jörg.wav",
                Command::Stor("Gespräch mit Jörg.wav".into()),
            ),
            ("STOR  two spaces", Command::Stor(" two spaces".into())),
            ("APPE a;b\"c.part", Command::Appe("a;b\"c.part".into())),
            ("REST 100", Command::Rest(100)),
            ("REST -1", Command::Malformed),
            ("REST 18446744073709551616", Command::Malformed),
            ("STOR", Command::Malformed),
            ("ALLO 100 R 10", Command::Allo(100)),
            ("EPSV", Command::Epsv(Epsv::Any)),
            ("EPSV 2", Command::Epsv(Epsv::Over(2))),
            ("epsv all", Command::Epsv(Epsv::All)),
            ("EPSV x", Command::Malformed),
            ("PORT 1,2,3,4,5,6", Command::NotOffered),
            ("OPTS UTF8 ON", Command::OptsUtf8),
            ("OPTS UTF8 OFF", Command::WrongParameter),
            ("OPTS HASH", Command::OptsHash(None)),
            ("OPTS HASH MD5", Command::OptsHash(Some("MD5".into()))),
            ("GET / HTTP/1.1", Command::Malformed),
            ("", Command::Malformed),
        ] {
            assert_eq!(parse(line), command, "{line}");
        }
    }

    #[test]
    fn options_of_ls_are_no_names() {
        for (line, path) in [
            ("LIST", None),
            ("LIST -a", None),
            ("LIST -a -l", None),
            ("LIST -al /", Some("/")),
            ("LIST -l a b.wav", Some("a b.wav")),
            ("LIST -- -a.wav", Some("-a.wav")),
            ("LIST a.wav", Some("a.wav")),
        ] {
            let path = path.map(str::to_owned);
            assert_eq!(parse(line), Command::List(Form::Long, path), "{line}");
        }
        let all = Command::List(Form::Facts, Some("-a".into()));
        assert_eq!(parse("MLSD -a"), all, "MLSD has none");
    }

    #[test]
    fn signals_of_telnet_are_left_out() {
        for (line, text) in [
            (&b"\xFF\xF4\xFF\xF2ABOR"[..], &b"ABOR"[..]),
            (b"\xFF\xF4\xFFABOR", b"ABOR"),
            (b"\xFF\xFD\x06NOOP", b"NOOP"),
            (b"NOOP\xFF", b"NOOP"),
            ("STOR ü.wav".as_bytes(), "STOR ü.wav".as_bytes()),
        ] {
            assert_eq!(without_telnet(line), text);
        }
    }

    #[test]
    fn bytes_become_lines_however_they_come() {
        let all = b"NOOP\r\nABOR\r\nSIZE a\n\r\nQUIT\r\n";
        for size in 1..all.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for mut bytes in all.chunks(size) {
                while !bytes.is_empty() {
                    let taken = lines.take(bytes);
                    bytes = &bytes[taken.bytes..];
                    found.extend(taken.line.map(|l| String::from_utf8(l).unwrap()));
                }
            }
            assert_eq!(found, ["NOOP", "ABOR", "SIZE a", "", "QUIT"], "{size}");
        }
    }

    #[test]
    fn abor_is_heard_without_its_last_byte() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"\xFF\xF4\xFFABOR\r").line.unwrap(), b"ABOR");
        assert_eq!(lines.take(b"NOOP\r\n").line.unwrap(), b"NOOP");
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::default();
        assert!(lines.take(&[b'a'; 1000]).line.is_none() && !lines.is_too_long());
        assert!(lines.take(&[b'a'; 5000]).line.is_none() && lines.is_too_long());
        assert!(lines.take(b"\n").line.is_none());
        assert_eq!(lines.partial.len(), MAX_LINE);
    }

    #[test]
    fn a_password_is_taken_as_it_is() {
        assert!(matches!(parse("pass  two  words "), Command::Pass(p) if *p == " two  words "));
    }
}
