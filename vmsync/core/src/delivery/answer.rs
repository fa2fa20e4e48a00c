//! What a mail server's answer means for the message, the mailbox and the server's entry.

/// How far a try had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the first command about the mail: connecting, greeting, TLS, authentication.
    Connection,
    /// MAIL: from whom.
    Sender,
    /// RCPT: for whom.
    Recipient,
    /// DATA and the mail itself.
    Content,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How far it had come.
    pub stage: Stage,
    /// The server's code, where it gave one.
    pub code: Option<u16>,
    /// The mail can't be sent to that server as it is, whatever it answers: too large for it, an
    /// address that is none.
    pub unsendable: bool,
    /// Something an operator must settle: TLS that can't be had, a password that can't be read.
    pub setup: bool,
    /// In words, the server's own where it said any.
    pub why: String,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 250 to the whole mail.
    Taken,
    /// The server takes nothing now: its entry waits. With `setup` an operator must act; with
    /// `with_mail` it may be this mail's doing, so another one goes first next time.
    NotNow {
        /// An operator must act.
        setup: bool,
        /// It failed while this mail was being handed over.
        with_mail: bool,
        /// In words.
        why: String,
    },
    /// Not for this mailbox now (4xx): it waits, others go on.
    MailboxLater(String),
    /// The message can't be read here now: it waits, others go on.
    MessageLater(String),
    /// Not this message, ever (5xx).
    Refused(String),
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let Failure { stage, code, .. } = failure;
        let setup = failure.setup || code.is_some_and(asks_for_authentication);
        let why = failure.why;
        let not_now = |setup| Self::NotNow {
            setup,
            with_mail: stage == Stage::Content,
            why: why.clone(),
        };
        if failure.unsendable {
            return Self::Refused(why);
        }
        match (stage, code) {
            // RFC 5321 section 3.8: the server is closing down, whatever was asked.
            (_, None | Some(421)) => not_now(setup),
            (Stage::Connection, Some(code)) => not_now(setup || code >= 500),
            _ if setup => not_now(true),
            // Too large (RFC 1870) is the only refusal of MAIL that is about this one message. That a
            // server dislikes from whom is an operator's setting, not the message's.
            (Stage::Sender, Some(552)) | (Stage::Recipient | Stage::Content, Some(500..)) => {
                Self::Refused(why)
            }
            _ => Self::MailboxLater(why),
        }
    }
}

/// RFC 4954 section 6: 530 required, 534 too weak, 535 wrong, 538 not without encryption.
fn asks_for_authentication(code: u16) -> bool {
    matches!(code, 530 | 534 | 535 | 538)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_answer_means() {
        use Stage::{Connection, Content, Recipient, Sender};
        let rows = [
            (Connection, None, "not now"),
            (Connection, Some(421), "not now"),
            (Connection, Some(451), "not now"),
            (Connection, Some(535), "set it up"),
            (Connection, Some(554), "set it up"),
            (Sender, Some(421), "not now"),
            (Sender, Some(451), "mailbox later"),
            (Sender, Some(530), "set it up"),
            (Sender, Some(550), "mailbox later"),
            (Sender, Some(552), "refused"),
            (Recipient, None, "not now"),
            (Recipient, Some(421), "not now"),
            (Recipient, Some(450), "mailbox later"),
            (Recipient, Some(452), "mailbox later"),
            (Recipient, Some(530), "set it up"),
            (Recipient, Some(550), "refused"),
            (Recipient, Some(553), "refused"),
            (Content, None, "not now, perhaps this mail"),
            (Content, Some(421), "not now, perhaps this mail"),
            (Content, Some(451), "mailbox later"),
            (Content, Some(554), "refused"),
        ];
        for (stage, code, expected) in rows {
            let failure = Failure {
                stage,
                code,
                unsendable: false,
                setup: false,
                why: String::new(),
            };
            let answer = match Answer::from(failure) {
                Answer::NotNow { setup: true, .. } => "set it up",
                Answer::NotNow {
                    with_mail: true, ..
                } => "not now, perhaps this mail",
                Answer::NotNow { .. } => "not now",
                Answer::MailboxLater(_) => "mailbox later",
                Answer::Refused(_) => "refused",
                Answer::Taken | Answer::MessageLater(_) => "something else",
            };
            assert_eq!(answer, expected, "{stage:?} {code:?}");
        }
    }

    #[test]
    fn what_can_not_be_sent_is_refused_and_what_lacks_tls_is_for_the_operator() {
        let failure = |unsendable, setup| Failure {
            stage: Stage::Sender,
            code: None,
            unsendable,
            setup,
            why: "why".into(),
        };
        assert_eq!(
            Answer::from(failure(true, false)),
            Answer::Refused("why".into())
        );
        assert!(matches!(
            Answer::from(failure(false, true)),
            Answer::NotNow { setup: true, .. }
        ));
    }
}
