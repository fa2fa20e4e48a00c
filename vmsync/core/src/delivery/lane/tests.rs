use std::time::Duration;

use uuid::Uuid;
use vmsync_config::words::{Now, UnixMillis};

use super::*;

const PACE: Pace = Pace {
    first: Duration::from_secs(30),
    most: Duration::from_hours(1),
};
/// When the tests begin.
const START: u64 = 1_790_000_000_000;

fn at(after: Duration) -> Now {
    let ms = u64::try_from(after.as_millis()).unwrap();
    Now {
        wall: UnixMillis(START + ms),
        mono: after,
    }
}

fn job(mailbox: &str, n: u128) -> Job {
    Job {
        mailbox: mailbox.parse().unwrap(),
        message: Uuid::from_u128(n),
        arrived: UnixMillis(START),
    }
}

fn not_now(setup: bool, with_mail: bool) -> Answer {
    Answer::NotNow {
        setup,
        with_mail,
        why: "can't be reached".into(),
    }
}

#[test]
fn a_dead_server_is_tried_at_growing_pauses_and_nothing_is_lost_before_five_days() {
    let mut lane = Lane::new("example.com", PACE);
    let message = job("2001", 1);
    let mut now = Duration::ZERO;
    let mut tries = 0;
    let given_up = loop {
        let verdict = lane.ended(&message, not_now(false, false), at(now));
        tries += 1;
        if let Verdict::Failed(why) = verdict {
            break why;
        }
        assert_eq!(verdict, Verdict::Later);
        let rests = lane.rests(at(now)).unwrap();
        let pause = rests.saturating_sub(now);
        assert!(
            pause <= PACE.most && pause > Duration::from_secs(20),
            "{pause:?}"
        );
        assert_eq!(lane.deadline(at(now)), Some(rests));
        now = rests;
        assert_eq!(lane.rests(at(now)), None);
    };
    assert!(now >= GIVE_UP && now < GIVE_UP + PACE.most, "{now:?}");
    assert!((120..170).contains(&tries), "{tries}");
    assert!(given_up.contains("5 days") && given_up.contains("can't be reached"));
    // Those behind it go too, unless they are younger.
    assert!(lane.given_up(UnixMillis(START), at(now)).is_some());
    assert!(
        lane.given_up(UnixMillis(START + 60_000_000), at(now))
            .is_none()
    );
}

#[test]
fn a_node_that_was_off_for_a_week_gives_nothing_up_on_its_first_try() {
    let mut lane = Lane::new("example.com", PACE);
    let old = Job {
        arrived: UnixMillis(START - 7 * 24 * 3_600_000),
        ..job("2001", 1)
    };
    assert_eq!(
        lane.ended(&old, not_now(false, false), at(Duration::ZERO)),
        Verdict::Later
    );
    assert!(
        lane.given_up(old.arrived, at(Duration::from_mins(59)))
            .is_none()
    );
    assert!(!lane.gives_up(at(Duration::from_mins(59))));
    assert!(lane.given_up(old.arrived, at(PATIENCE)).is_some() && lane.gives_up(at(PATIENCE)));
    // And once the server takes mails again, it takes this one.
    assert_eq!(
        lane.ended(&old, Answer::Taken, at(PATIENCE)),
        Verdict::Mailed
    );
    assert!(lane.given_up(old.arrived, at(PATIENCE)).is_none());
}

#[test]
fn an_operator_is_told_of_setup_at_once_and_of_the_rest_when_it_lasts() {
    let mut lane = Lane::new("example.com", PACE);
    let message = job("2001", 1);
    lane.ended(&message, not_now(true, false), at(Duration::ZERO));
    assert!(lane.alarm().unwrap().setup);
    lane.ended(&message, Answer::Taken, at(Duration::from_mins(1)));
    assert_eq!(lane.trouble(), None);
    for tries in 1..=4 {
        lane.ended(
            &message,
            not_now(false, false),
            at(Duration::from_secs(100 * tries)),
        );
        assert_eq!(lane.alarm().is_some(), tries >= 3, "{tries}");
    }
    // A refusal shows that the server works.
    lane.ended(
        &message,
        Answer::Refused("550 no".into()),
        at(Duration::from_hours(1)),
    );
    assert_eq!(lane.trouble(), None);
}

#[test]
fn a_mailbox_that_is_put_off_holds_up_no_other() {
    let mut lane = Lane::new("example.com", PACE);
    let now = at(Duration::ZERO);
    let put_off = job("2001", 1);
    let verdict = lane.ended(&put_off, Answer::MailboxLater("450 greylisted".into()), now);
    assert_eq!(verdict, Verdict::Later);
    assert_eq!(lane.rests(now), None);
    assert!(!lane.mailbox_may(&put_off.mailbox, now));
    assert!(lane.mailbox_may(&"2002".parse().unwrap(), now));
    let deadline = lane.deadline(now).unwrap();
    assert!(lane.mailbox_may(&put_off.mailbox, at(deadline)));
    assert_eq!(lane.delayed().count(), 0);
    for _ in 0..6 {
        lane.ended(&put_off, Answer::MailboxLater("450".into()), now);
    }
    assert_eq!(lane.delayed().count(), 1);
    assert_eq!(lane.ended(&put_off, Answer::Taken, now), Verdict::Mailed);
    assert_eq!(lane.waiting().count(), 0);
}

#[test]
fn a_mail_that_breaks_the_connection_does_not_go_first_again() {
    let mut lane = Lane::new("example.com", PACE);
    let now = at(Duration::ZERO);
    lane.ended(&job("2001", 1), not_now(false, true), now);
    let again = at(lane.rests(now).unwrap());
    lane.ended(&job("2002", 2), Answer::Taken, again);
    assert_eq!(lane.waiting().count(), 1, "2001 keeps its own wait");
}

#[test]
fn a_message_that_can_not_be_read_waits_alone() {
    let mut lane = Lane::new("example.com", PACE);
    let now = at(Duration::ZERO);
    let message = job("2001", 1);
    let later = Answer::MessageLater("its audio is missing".into());
    assert_eq!(lane.ended(&message, later.clone(), now), Verdict::Later);
    assert!(lane.mailbox_may(&message.mailbox, now));
    assert!(!lane.message_may(message.message, now));
    assert!(lane.message_may(Uuid::from_u128(2), now));
    let end = at(GIVE_UP + PATIENCE);
    let verdict = lane.ended(&message, later, end);
    assert!(matches!(verdict, Verdict::Failed(why) if why.contains("audio")));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut lane = Lane::new("example.com", PACE);
    for n in 0..=REMEMBERED {
        let one = job(&n.to_string(), n as u128);
        let now = at(Duration::ZERO);
        lane.ended(&one, Answer::MailboxLater("450".into()), now);
        lane.ended(&one, Answer::MessageLater("missing".into()), now);
    }
    assert_eq!(
        (lane.mailboxes.len(), lane.messages.len()),
        (REMEMBERED, REMEMBERED)
    );
    lane.retain(|_| false);
    assert_eq!(lane.waiting().count(), 0);
}
