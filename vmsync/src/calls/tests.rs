//! The registry by itself: what counts, what is told, what is forgotten.

use super::*;

struct Bench {
    calls: Calls,
    events: EventHub,
    changed: Arc<Notify>,
}

fn bench(most: usize) -> Bench {
    let (events, changed) = (EventHub::new(), Arc::new(Notify::new()));
    let node = NodeId::new("vmpro2").unwrap();
    let calls = Calls::with_room(events.clone(), Arc::clone(&changed), node, most);
    Bench {
        calls,
        events,
        changed,
    }
}

impl Bench {
    fn start(&self, group: &str, now: Now) -> Result<Uuid, TooManyCalls> {
        let new = NewCall {
            kind: "leave".to_owned(),
            mailbox: Extension::new("2001").unwrap(),
            group: GroupName::new(group).unwrap(),
            caller_number: Some("5550123".to_owned()),
            caller_name: None,
        };
        let source = vmsync_callflows::built_in("leave").unwrap();
        let flow = vmsync_callflows::check(source.as_bytes(), "leave.toml").unwrap();
        let run = Run::start(Arc::new(flow), vmsync_callflows::Variables::new());
        self.calls.start(new, run, now).map(|call| call.id)
    }

    /// What was told since the start, oldest first.
    fn told(&self) -> Vec<String> {
        let recent = self.events.recent(100);
        recent
            .iter()
            .map(|e| e.data["what"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn at(seconds: u64) -> Now {
    Now {
        mono: Duration::from_secs(seconds),
        wall: UnixMillis(1_000_000 + seconds * 1_000),
    }
}

const IDLE: Duration = Duration::from_mins(5);

#[tokio::test]
async fn calls_count_for_their_group_until_they_end() {
    let b = bench(10);
    let primary = GroupName::new("primary").unwrap();
    let first = b.start("primary", at(0)).unwrap();
    b.start("secondary", at(0)).unwrap();
    assert_eq!((b.calls.active(), b.calls.active_in(&primary)), (2, 1));
    b.calls.end(first, "hung up", at(1));
    b.calls.end(first, "hung up", at(2));
    assert_eq!((b.calls.active(), b.calls.active_in(&primary)), (1, 0));
    assert_eq!(b.told(), ["started", "started", "ended"]);
    tokio::time::timeout(Duration::from_secs(1), b.changed.notified())
        .await
        .expect("the loop is woken");
}

#[test]
fn a_call_without_sign_of_life_stops_counting_and_counts_again_when_it_returns() {
    let b = bench(10);
    let id = b.start("primary", at(0)).unwrap();
    b.calls.keepalive(id, at(200));
    assert!(
        b.calls.expire(at(499), IDLE).is_empty(),
        "the keepalive counts"
    );
    assert_eq!(b.calls.expire(at(500), IDLE).len(), 1);
    assert!(b.calls.expire(at(501), IDLE).is_empty(), "told once");
    assert_eq!(b.calls.active(), 0);
    let facts = b.calls.at(id, "record", at(600)).unwrap();
    assert_eq!(
        (facts.state, facts.step.as_str(), b.calls.active()),
        (CallState::Active, "record", 1)
    );
    assert_eq!(b.told(), ["started", "silent", "returned"]);
}

#[test]
fn silent_and_ended_calls_are_forgotten_in_the_end() {
    let b = bench(10);
    let silent = b.start("primary", at(0)).unwrap();
    let ended = b.start("primary", at(0)).unwrap();
    b.calls.end(ended, "hung up", at(0));
    b.calls.expire(at(599), IDLE);
    assert!(b.calls.get(ended).is_some(), "still answers a repetition");
    assert!(
        b.calls.keepalive(ended, at(599)).is_none(),
        "but does not come back to life"
    );
    b.calls.expire(at(600), IDLE);
    assert!(b.calls.get(ended).is_none());
    b.calls.expire(at(7_499), IDLE);
    assert!(b.calls.get(silent).is_some());
    b.calls.expire(at(7_500), IDLE);
    assert!(b.calls.get(silent).is_none());
}

#[test]
fn a_full_table_drops_ended_then_silent_calls_but_never_active_ones() {
    let b = bench(3);
    let silent = b.start("primary", at(0)).unwrap();
    b.calls.expire(at(300), IDLE);
    let ended = b.start("primary", at(301)).unwrap();
    b.calls.end(ended, "hung up", at(302));
    for _ in 0..3 {
        b.start("primary", at(303)).unwrap();
    }
    assert!(b.calls.get(ended).is_none() && b.calls.get(silent).is_none());
    assert_eq!(b.start("primary", at(304)), Err(TooManyCalls(3)));
    assert_eq!(b.calls.active(), 3);
}

#[test]
fn the_list_pages_by_id_and_leaves_ended_calls_out() {
    let b = bench(10);
    let ids: Vec<Uuid> = (0..4).map(|_| b.start("primary", at(0)).unwrap()).collect();
    b.calls.end(ids[1], "hung up", at(1));
    let listed = |after, most| {
        b.calls
            .list(after, most)
            .iter()
            .map(|f| f.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 2), [ids[0], ids[2]]);
    assert_eq!(listed(Some(ids[2]), 2), [ids[3]]);
}
