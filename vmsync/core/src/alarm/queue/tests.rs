use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;
use vmsync_config::{Severity, words::UnixMillis};

use super::*;
use crate::alarm::Facts;

fn notice(what: What) -> Arc<Notice> {
    let (id, at) = (Uuid::nil(), UnixMillis(0));
    Arc::new(Notice { id, at, what })
}

fn facts(number: u64) -> Facts {
    Facts {
        number,
        code: "disk_full".to_owned(),
        subject: "vmpro1".to_owned(),
        text: String::new(),
        severity: Severity::Critical,
        since: UnixMillis(0),
    }
}

fn raised(number: u64) -> Arc<Notice> {
    notice(What::Raised(facts(number)))
}

fn cleared(number: u64) -> Arc<Notice> {
    notice(What::Cleared(facts(number)))
}

fn event() -> Arc<Notice> {
    Arc::new(Notice::event(
        Uuid::nil(),
        UnixMillis(0),
        "phase",
        None,
        1.into(),
    ))
}

fn words(queue: &Queue) -> Vec<String> {
    let word = |item: &Item| {
        let number = item.notice.facts().map_or(0, |f| f.number);
        format!("{} {number} -{}", item.notice.word(), item.missed)
    };
    queue.items.values().map(word).collect()
}

#[test]
fn what_is_told_leaves_in_order_and_what_failed_stays() {
    let mut queue = Queue::new(100, Vec::new());
    for n in 1..=3 {
        queue.push(raised(n));
    }
    let first = queue.begin(1);
    queue.failed();
    assert!(queue.told().is_empty(), "nothing is under way");
    assert_eq!(queue.begin(1), first);
    assert_eq!(queue.told(), [Change::Remove(1)]);
    assert_eq!(queue.begin(1)[0].notice, raised(2));
    assert_eq!(queue.len(), 2);
}

#[test]
fn several_are_told_as_one_and_stay_as_one() {
    let mut queue = Queue::new(100, Vec::new());
    for n in 1..=3 {
        queue.push(raised(n));
    }
    assert_eq!(queue.begin(2).len(), 2);
    queue.failed();
    assert_eq!(queue.begin(9).len(), 3);
    queue.push(raised(4));
    assert_eq!(queue.told(), [1, 2, 3].map(Change::Remove));
    assert_eq!(words(&queue), ["raised 4 -0"], "came meanwhile");
}

#[test]
fn what_is_being_told_stays_also_where_it_is_over() {
    let mut queue = Queue::new(4, Vec::new());
    queue.push(raised(1));
    queue.begin(1);
    for notice in [cleared(1), raised(2), cleared(2), raised(3)] {
        queue.push(notice);
    }
    let left = ["raised 1 -0", "cleared 1 -0", "raised 3 -2"];
    assert_eq!(words(&queue), left);
    assert_eq!(queue.dropped(), 2);
}

#[test]
fn over_the_limit_goes_the_oldest_alarm_that_is_over_and_the_next_says_so() {
    let mut queue = Queue::new(4, Vec::new());
    for notice in [raised(1), raised(2), cleared(2), raised(3), cleared(3)] {
        queue.push(notice);
    }
    assert_eq!(
        words(&queue),
        ["raised 1 -0", "raised 3 -2", "cleared 3 -0"]
    );
    assert_eq!(queue.dropped(), 2);
}

#[test]
fn events_go_only_where_no_alarm_is_over() {
    let mut queue = Queue::new(2, Vec::new());
    for notice in [event(), raised(1), event()] {
        queue.push(notice);
    }
    assert_eq!(words(&queue), ["raised 1 -1", "event 0 -0"]);
}

#[test]
fn what_is_given_up_is_told_of_with_the_next() {
    let mut queue = Queue::new(9, Vec::new());
    queue.push(event());
    queue.begin(1);
    queue.give_up();
    queue.push(raised(1));
    assert_eq!(words(&queue), ["raised 1 -1"]);
}

/// What a store holds after the changes.
fn keep(kept: &mut std::collections::BTreeMap<u64, Item>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put(item) => drop(kept.insert(item.number, item)),
            Change::Remove(number) => drop(kept.remove(&number)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, is told, fails and is restarted: the receiver ends up with exactly the alarms
    /// that are up, hears of no end without its begin, and everything is either told or counted.
    #[test]
    fn the_receiver_ends_with_the_truth(steps in prop::collection::vec((0_u8..10, 0_u64..4), 1..200)) {
        // Four alarms up at most, so nine suffice.
        let mut queue = Queue::new(9, Vec::new());
        let (mut kept, mut up) = (std::collections::BTreeMap::new(), [None::<u64>; 4]);
        let (mut last, mut heard, mut told, mut pushed, mut missed) = (0, BTreeSet::new(), 0, 0, 0);
        let mut tell = |queue: &mut Queue, kept: &mut _, most| -> bool {
            let items = queue.begin(most);
            for item in &items {
                match &item.notice.what {
                    What::Raised(f) => assert!(heard.insert(f.number)),
                    What::Cleared(f) => assert!(heard.remove(&f.number), "end without begin"),
                    _ => {}
                }
                told += 1;
                missed += item.missed;
            }
            keep(kept, queue.told());
            !items.is_empty()
        };
        for (step, n) in steps {
            match step {
                0..=5 => {
                    let slot = &mut up[usize::try_from(n).unwrap()];
                    let notice = if let Some(number) = slot.take() {
                        cleared(number)
                    } else {
                        last += 1;
                        *slot = Some(last);
                        raised(last)
                    };
                    pushed += 1;
                    keep(&mut kept, queue.push(notice));
                }
                6 | 7 => { tell(&mut queue, &mut kept, usize::from(step) - 5); }
                8 => {
                    queue.begin(3);
                    queue.failed();
                }
                _ => {
                    // Dropped with nothing behind: that alone a restart forgets to count.
                    pushed -= queue.missed;
                    queue = Queue::new(9, kept.values().cloned().collect());
                }
            }
            prop_assert!(queue.len() <= 9);
        }
        pushed -= queue.missed;
        while tell(&mut queue, &mut kept, 4) {}
        prop_assert!(kept.is_empty());
        prop_assert_eq!(heard, up.into_iter().flatten().collect::<BTreeSet<_>>());
        prop_assert_eq!(told + missed, pushed);
    }
}

/// Ten thousand systems fail over and back while nobody listens: each push is a few look-ups.
#[test]
fn a_full_queue_is_no_slower_than_an_empty_one() {
    let mut queue = Queue::new(20_000, Vec::new());
    for round in 0..5_u64 {
        let alarms = round * 10_000..(round + 1) * 10_000;
        for n in alarms.clone() {
            queue.push(raised(n));
        }
        for n in alarms {
            queue.push(cleared(n));
        }
        assert!(queue.len() <= 20_000);
    }
    assert_eq!(queue.dropped(), 80_000);
    let first = queue.begin(1)[0].clone();
    assert_eq!((first.number, first.missed), (80_001, 80_000));
}
