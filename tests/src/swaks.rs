//! A PBX that mails: `swaks`, a mail client that shares no code with vmsync.
#![allow(
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    reason = "a test says what failed by panicking"
)]

use std::{path::Path, time::Duration};

use crate::pair::{Node, installed, run};

/// A mail to be sent by `swaks`.
pub struct Swaks {
    args: Vec<String>,
}

/// What was said on the connection.
#[derive(Debug)]
pub struct Transcript {
    /// Every line, with `->`, `<-` and the like in front.
    pub text: String,
    /// `swaks`' exit code; 0 = the mail was taken.
    pub code: Option<i32>,
}

impl Swaks {
    /// A mail for `to` through `node`'s receiver, as Asterisk's `app_voicemail` words it but for the audio.
    pub fn mail(node: &Node, to: &str) -> Self {
        let mut this = Self { args: Vec::new() };
        this.add("--server", &node.smtp);
        this.add("--helo", "pbx.demo.example");
        this.add("--from", "asterisk@pbx.demo.example");
        this.add("--to", to);
        this.add("--timeout", "10");
        this.header("Subject", "[PBX]: New message 1 in mailbox 2001")
            .header("X-Asterisk-CallerID", "5551234")
            .header("X-Asterisk-CallerIDName", "Charles Babbage")
            .with(
                "--body",
                "Dear Ada Lovelace: you have a message from Charles Babbage.",
            )
    }

    fn add(&mut self, option: &str, value: &str) {
        self.args.extend([option.to_owned(), value.to_owned()]);
    }

    /// An option of `swaks` with its value.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.add(option, value);
        self
    }

    /// An option of `swaks` without a value.
    #[must_use]
    pub fn flag(mut self, option: &str) -> Self {
        self.args.push(option.to_owned());
        self
    }

    /// A header of the mail.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.with("--header", &format!("{name}: {value}"))
    }

    /// The recording, a file, as Asterisk attaches it.
    #[must_use]
    pub fn recording(self, wav: &Path) -> Self {
        self.with("--attach-name", "msg0000.wav")
            .with("--attach-type", "audio/x-wav")
            .with("--attach", &format!("@{}", wav.display()))
    }

    /// Sends it.
    pub async fn send(self) -> Transcript {
        installed("swaks");
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        let ended = run("swaks", &args, Duration::from_secs(30)).await;
        let all = ended.out + &ended.err;
        // The audio in base64 tells nobody anything.
        let lines = all
            .lines()
            .filter(|l| !(l.len() > 70 && l.starts_with(" -> ") && !l[4..].contains(' ')));
        Transcript {
            text: lines.collect::<Vec<_>>().join("\n"),
            code: ended.code,
        }
    }
}

impl Transcript {
    /// Fails the test unless the mail was taken.
    #[track_caller]
    pub fn taken(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self
    }

    /// Fails the test unless some step was refused with `code` and `words`.
    #[track_caller]
    pub fn refused(self, code: &str, words: &str) -> Self {
        assert_ne!(self.code, Some(0), "it was taken:\n{}", self.text);
        // `<**` marks a refusal, `<~*` one inside TLS.
        let refused = self
            .text
            .lines()
            .filter(|l| l.starts_with("<**") || l.starts_with("<~*"));
        let found = refused
            .into_iter()
            .any(|l| l[3..].trim_start().starts_with(code) && l.contains(words));
        assert!(
            found,
            "no refusal with {code} and {words:?}:\n{}",
            self.text
        );
        self
    }

    /// Whether the client got as far as to send the mail's content.
    pub fn sent_data(&self) -> bool {
        self.text.lines().any(|l| l.ends_with("> DATA"))
    }
}
