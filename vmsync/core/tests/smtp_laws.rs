//! What holds whatever a client sends: no panic, the same answers for any pieces it comes in,
//! bounded memory, and a mail that is handed over is exactly the mail that was sent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{sync::Arc, time::Duration};

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
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        tls_required: false,
        message_bytes: LIMIT as u64,
        recipients: 3,
        errors: 8,
        commands: 50,
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
    let mut rest = input;
    let mut lengths = pieces.iter().copied();
    while !rest.is_empty() {
        let length = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (mut piece, after) = rest.split_at(length);
        rest = after;
        while !piece.is_empty() {
            let used = session.handle(now(), piece);
            piece = &piece[used..];
            assert!(session.holding() <= LIMIT);
            assert!(used > 0 || !session.wants_input());
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
