//! What holds whatever a client sends: no panic, the same answers for any pieces it comes in,
//! bounded memory, and a mail that is handed over is exactly the mail that was sent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use proptest::prelude::*;
use vmsync_config::words::{Fqdn, Now, UnixMillis};
use vmsync_core::smtp::{Accepted, Action, Policy, Refusal, Session, SmtpEvent, Times, Verdict};

const LIMIT: usize = 300;

fn session(tls: bool) -> Session {
    let times = Times {
        greeting: Duration::from_secs(30),
        command: Duration::from_mins(1),
        data: Duration::from_mins(5),
        idle: Duration::from_mins(10),
    };
    let policy = Policy {
        domain: Fqdn::new("vmpro1.example.com").unwrap(),
        peer: Fqdn::new("vmpro2.example.com").unwrap(),
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        tls_required: false,
        message_bytes: LIMIT as u64,
        recipients: 3,
        errors: 8,
        commands: 50,
        mails_per_minute: 6000,
        times,
    };
    Session::new(Arc::new(policy), "192.0.2.7".parse().unwrap(), tls, now())
}

fn now() -> Now {
    Now {
        mono: Duration::from_secs(1),
        wall: UnixMillis(0),
    }
}

/// Feeds `input` in pieces of the given lengths (the last for all the rest) and gives all that came out.
fn talk(session: &mut Session, input: &[u8], pieces: &[usize]) -> Vec<Action> {
    let mut out = vec![];
    let mut deliveries = 0;
    drain(session, &mut out, &mut deliveries);
    let mut inbox = BytesMut::new();
    let mut rest = input;
    let mut lengths = pieces.iter().copied();
    while !rest.is_empty() {
        let length = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        inbox.extend_from_slice(piece);
        while !inbox.is_empty() {
            let used = session.handle(now(), &mut inbox);
            assert!(session.holding() <= LIMIT);
            if used == 0 {
                // Only a chunk that isn't there whole is left lying.
                assert!(inbox.len() < session.expects());
                break;
            }
            drain(session, &mut out, &mut deliveries);
        }
    }
    out
}

fn drain(session: &mut Session, out: &mut Vec<Action>, deliveries: &mut usize) {
    while let Some(action) = session.poll() {
        match &action {
            Action::AskRecipient(r) => session.recipient(
                now(),
                if format!("{r:?}").contains('9') {
                    Verdict::Refuse(Refusal::no_mailbox("9"))
                } else {
                    Verdict::Accept
                },
            ),
            Action::Deliver { body, envelope } => {
                assert!(body.len() <= LIMIT && !envelope.recipients.is_empty());
                *deliveries += 1;
                let answer = match *deliveries % 2 {
                    1 => Ok(Accepted::default()),
                    _ => Err(Refusal::try_later("busy\r\n250 forged")),
                };
                session.delivered(now(), answer);
            }
            _ => {}
        }
        out.push(action);
    }
}

/// Pieces of dialogs, well-formed or nearly, so that chance gets past the first command.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&'static [u8]> = vec![
        b"EHLO a.example\r\n",
        b"HELO a\r\n",
        b"MAIL FROM:<a@example.net>\r\n",
        b"MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
        b"RCPT TO:<2001@vmpro1.example.com>\r\n",
        b"RCPT TO:<vmsync@vmpro1.example.com>\r\n",
        b"RCPT TO:<9@vmpro1.example.com>\r\n",
        b"RCPT TO:<x@example.org>\r\n",
        b"RCPT TO:<",
        b"MAIL FROM:<a@b> SIZE=99999999999999999999999999",
        b"DATA\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"STARTTLS\r\n",
        b"BDAT 3 LAST\r\n",
        b"BDAT 6 LAST\r\nQUIT\r\n",
        b"BDAT 6\r\nRSET\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 290\r\n",
        b"BDAT 400 LAST\r\n",
        b"BDAT 99999999999 LAST\r\n",
        b"BDAT 3\n",
        b"BDAT x\r\n",
        b"MAIL FROM:<b@example.net> BODY=BINARYMIME\r\n",
        b"\r\n.\r\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b".",
        b"..",
        b"\r",
        b"\n",
        b"\0",
        b"text of a mail\r\n",
        b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (900usize..1100).prop_map(|n| vec![b'x'; n]),
    ]
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(fragment(), 0..40).prop_map(|f| f.concat())
}

/// What went over the wire; where TLS began depends on the pieces only in that it didn't begin.
fn audible(actions: Vec<Action>) -> Vec<Action> {
    actions
        .into_iter()
        .filter(|a| *a != Action::StartTls)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_make_no_difference(
        input in conversation(),
        pieces in proptest::collection::vec(1usize..60, 0..60),
        tls: bool,
    ) {
        let whole = audible(talk(&mut session(tls), &input, &[]));
        let split = audible(talk(&mut session(tls), &input, &pieces));
        let bytes = audible(talk(&mut session(tls), &input, &vec![1; input.len()]));
        prop_assert_eq!(&whole, &split);
        prop_assert_eq!(&whole, &bytes);
    }

    #[test]
    fn replies_are_lines_and_nothing_follows_close(input in conversation(), tls: bool) {
        let out = talk(&mut session(tls), &input, &[]);
        for action in &out {
            if let Action::Reply(bytes) = action {
                let text = std::str::from_utf8(bytes).unwrap();
                prop_assert!(text.is_ascii() && text.ends_with("\r\n"));
                for line in text.split_terminator("\r\n") {
                    prop_assert!(!line.contains(['\r', '\n', '\0']) && line.len() <= 510);
                    prop_assert!(line.as_bytes()[..3].iter().all(u8::is_ascii_digit));
                }
            }
        }
        let close = out.iter().position(|a| *a == Action::Close);
        prop_assert!(close.is_none_or(|at| at == out.len() - 1));
    }

    /// After the first STARTTLS only its own answer is heard.
    #[test]
    fn nothing_after_starttls_is_executed(after in conversation()) {
        prop_assume!(!after.is_empty());
        let input = [&b"EHLO a\r\nSTARTTLS\r\n"[..], &after].concat();
        let out = talk(&mut session(true), &input, &[]);
        let peer = "192.0.2.7".parse().unwrap();
        let [.., tail1, tail2, tail3] = &out[..] else { panic!("{out:?}") };
        prop_assert_eq!(out.len(), 5);
        prop_assert_eq!(tail1, &Action::Reply(b"220 2.0.0 go ahead\r\n".to_vec()));
        prop_assert_eq!(tail2, &Action::Event(SmtpEvent::StartTlsInjection { peer }));
        prop_assert_eq!(tail3, &Action::Close);
    }

    /// Stuffed on one side, unstuffed on the other: what arrives is what was sent.
    #[test]
    fn mails_arrive_as_they_were_sent(
        lines in proptest::collection::vec("[.]{0,3}[ -~é]{0,12}", 0..12),
        pieces in proptest::collection::vec(1usize..20, 0..40),
    ) {
        let mail: String = lines.iter().flat_map(|l| [l, "\r\n"]).collect();
        prop_assume!(mail.len() <= LIMIT);
        let mut input = b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<2001@vmpro1.example.com>\r\nDATA\r\n".to_vec();
        for line in &lines {
            if line.starts_with('.') {
                input.push(b'.');
            }
            input.extend(line.as_bytes());
            input.extend(b"\r\n");
        }
        input.extend(b".\r\n");
        let out = talk(&mut session(false), &input, &pieces);
        let bodies: Vec<_> = out
            .iter()
            .filter_map(|a| match a {
                Action::Deliver { body, .. } => Some(&body[..]),
                _ => None,
            })
            .collect();
        prop_assert_eq!(bodies, vec![mail.as_bytes()]);
    }

    /// Whatever the octets, and wherever they are cut into chunks: what arrives is what was sent, and none
    /// of them is taken for a command.
    #[test]
    fn chunked_mails_arrive_as_they_were_sent(
        mails in proptest::collection::vec(
            proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..60),
                    Just(b"QUIT\r\n".to_vec()),
                    Just(b"\r\n.\r\nBDAT 1 LAST\r\n".to_vec()),
                ],
                1..5,
            ),
            1..4,
        ),
        pieces in proptest::collection::vec(1usize..50, 0..60),
    ) {
        let mut input = b"EHLO a\r\n".to_vec();
        for mail in &mails {
            input.extend(b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<2001@vmpro1.example.com>\r\n");
            for (index, chunk) in mail.iter().enumerate() {
                let last = if index + 1 == mail.len() { " LAST" } else { "" };
                input.extend(format!("BDAT {}{last}\r\n", chunk.len()).bytes());
                input.extend(chunk);
            }
        }
        let out = talk(&mut session(false), &input, &pieces);
        let bodies: Vec<_> = out
            .iter()
            .filter_map(|a| match a {
                Action::Deliver { body, .. } => Some(body.to_vec()),
                _ => None,
            })
            .collect();
        let sent: Vec<Vec<u8>> = mails.iter().map(|m| m.concat()).collect();
        prop_assert_eq!(bodies, sent);
        // The greeting and EHLO's, and one reply for each command.
        let commands = 2 + mails.iter().map(|m| 2 + m.len()).sum::<usize>();
        let replies = out.iter().filter(|a| matches!(a, Action::Reply(_))).count();
        prop_assert_eq!(replies, commands);
    }

    /// A chunk that is refused is skipped, whatever is in it.
    #[test]
    fn no_octet_of_a_refused_chunk_is_a_command(
        octets in proptest::collection::vec(
            prop_oneof![Just(b"QUIT\r\n".to_vec()), Just(b"VRFY x\r\n".to_vec()), proptest::collection::vec(any::<u8>(), 1..9)],
            1..50,
        ),
        pieces in proptest::collection::vec(1usize..50, 0..30),
        before in proptest::sample::select(vec![
            &b"EHLO a\r\n"[..],
            b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<9@vmpro1.example.com>\r\n",
            b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<2001@vmpro1.example.com>\r\nBDAT 299\r\n{299*x}",
        ]),
    ) {
        let before = String::from_utf8_lossy(before).replace("{299*x}", &"x".repeat(299));
        let octets = octets.concat();
        let quiet = talk(&mut session(false), before.as_bytes(), &[]).len();
        let last = if octets.len() > 1 { " LAST" } else { "" };
        let chunk = format!("BDAT {}{last}\r\n", octets.len());
        let input = [before.as_bytes(), chunk.as_bytes(), &octets, b"NOOP\r\n"].concat();
        let out = talk(&mut session(false), &input, &pieces);
        let replies: Vec<_> = out[quiet..]
            .iter()
            .filter_map(|a| match a {
                Action::Reply(bytes) => Some(String::from_utf8_lossy(&bytes[..3]).into_owned()),
                _ => None,
            })
            .collect();
        prop_assert_eq!(replies.len(), 2, "{:?}", &out[quiet..]);
        let refused = replies[0].starts_with('5') || octets.len() == 1;
        prop_assert!(refused && replies[1] == "250", "{:?}", replies);
    }

    /// The parser in use meets any line at all, and time-outs come at any moment.
    #[test]
    fn any_bytes_and_any_moment(
        input in proptest::collection::vec(any::<u8>(), 0..300),
        verb in proptest::sample::select(vec!["", "MAIL FROM:<", "RCPT TO:<a@b> ", "MAIL FROM:<a@b> ", "EHLO ", "BDAT ", "AUTH ", "ATRN "]),
        at in 0u64..700,
    ) {
        let mut s = session(false);
        talk(&mut s, b"EHLO a\r\n", &[]);
        talk(&mut s, &[verb.as_bytes(), &input, b"\r\n"].concat(), &[]);
        let later = Now { mono: Duration::from_secs(at), wall: UnixMillis(0) };
        let due = s.deadline().is_some_and(|d| d <= later.mono);
        s.expire(later);
        let closed = std::iter::from_fn(|| s.poll()).any(|a| a == Action::Close);
        prop_assert_eq!(closed, due);
    }
}
