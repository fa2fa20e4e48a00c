use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3_600_000;

/// The units of these examples: what has the same name up to the dot.
fn stem(name: &str) -> &str {
    name.split_once('.').unwrap().0
}

fn kept(name: &str, bytes: u64, kept_at: u64) -> Kept {
    Kept {
        unit: stem(name).to_owned(),
        name: "call.wav".to_owned(),
        remote_name: "call.wav".to_owned(),
        bytes,
        sha256: "ab".repeat(32),
        confirmed_at: UnixMillis(1_700_000_000_000 + kept_at),
        kept_at,
    }
}

/// Records of (name, bytes, hour in which it was kept), all of them present.
fn archive(of: &[(&str, u64, u64)]) -> (BTreeMap<String, Kept>, Present) {
    let records: BTreeMap<_, _> = of
        .iter()
        .map(|(name, bytes, hour)| ((*name).to_owned(), kept(name, *bytes, hour * HOUR)))
        .collect();
    let recorded = records.iter().map(|(n, k)| (n.clone(), k.bytes)).collect();
    let present = Present {
        recorded,
        ..Present::default()
    };
    (records, present)
}

fn gone(plan: &Plan) -> Vec<&str> {
    let files = plan.delete.iter().flat_map(|d| &d.files);
    files.map(String::as_str).collect()
}

fn days(n: u64) -> KeepLimits {
    KeepLimits {
        max_age: Some(Duration::from_hours(24 * n)),
        max_bytes: None,
    }
}

#[test]
fn what_is_too_old_goes_with_its_side_files() {
    let (records, present) = archive(&[
        ("old.wav", 100, 0),
        ("old.xml", 10, 0),
        ("young.wav", 100, 30),
    ]);
    let plan = plan(&records, &present, &days(1), 25 * HOUR);
    assert_eq!(gone(&plan), ["old.wav", "old.xml"]);
    assert_eq!(plan.delete[0].why, Why::Age);
    assert_eq!((plan.files, plan.bytes), (1, 100));
    assert_eq!(plan.oldest, Some(records["young.wav"].confirmed_at));
    // A side file that came later keeps its recording.
    let (records, present) = archive(&[("old.wav", 100, 0), ("old.json", 10, 20)]);
    assert!(
        super::plan(&records, &present, &days(1), 25 * HOUR)
            .delete
            .is_empty()
    );
}

#[test]
fn the_oldest_make_room() {
    let (records, present) = archive(&[("b.wav", 60, 1), ("a.wav", 60, 2), ("c.wav", 60, 3)]);
    let limits = KeepLimits {
        max_age: None,
        max_bytes: Some(130),
    };
    let room = plan(&records, &present, &limits, 4 * HOUR);
    assert_eq!(gone(&room), ["b.wav"]);
    assert_eq!(room.delete[0].why, Why::Room);
    // What somebody else put there takes room as well, and stays.
    let crowded = Present {
        foreign: 100,
        ..present
    };
    let plan = plan(&records, &crowded, &limits, 4 * HOUR);
    assert_eq!(
        (gone(&plan), plan.bytes),
        (vec!["b.wav", "a.wav", "c.wav"], 100)
    );
}

#[test]
fn a_file_that_is_not_what_was_recorded_stays_with_its_unit() {
    let (records, mut present) = archive(&[("a.wav", 100, 0), ("a.xml", 10, 0), ("b.wav", 9, 0)]);
    present.recorded.insert("a.xml".to_owned(), 11);
    present.spoiled.insert("b.wav".to_owned());
    let plan = plan(&records, &present, &days(1), 99 * HOUR);
    assert!(plan.delete.is_empty());
    assert_eq!(plan.changed, ["a.xml", "b.wav"]);
}

#[test]
fn a_record_without_its_file_is_forgotten() {
    let (records, mut present) = archive(&[("a.wav", 100, 0), ("b.wav", 100, 0)]);
    present.recorded.remove("a.wav");
    let plan = plan(&records, &present, &days(1), HOUR);
    assert_eq!(
        (plan.forget.as_slice(), plan.files),
        (["a.wav".to_owned()].as_slice(), 1)
    );
}

fn at(mono_h: u64, wall_h: u64) -> Now {
    Now {
        mono: Duration::from_hours(mono_h),
        wall: UnixMillis(wall_h * HOUR),
    }
}

#[test]
fn no_leap_of_the_wall_clock_ages_anything_by_more_than_a_day() {
    let clock = AgeClock::begin(None, at(0, 500_000));
    // Set back, and years ahead, while the program runs.
    assert_eq!(clock.lived_ms(at(3, 1)), 3 * HOUR);
    assert_eq!(clock.lived_ms(at(4, 900_000)), 4 * HOUR);
    let saved = clock.save(at(4, 500_004));
    // Over a restart: a night counts, years count as a day, backwards as nothing.
    let restarted = |wall| AgeClock::begin(Some(saved), at(0, wall)).lived_ms(at(0, wall));
    assert_eq!(restarted(500_012), 12 * HOUR);
    assert_eq!(restarted(900_000), 28 * HOUR);
    assert_eq!(restarted(7), 4 * HOUR);
}

prop_compose! {
    fn file()(stem in 0_u8..12, ext in 0_usize..3, bytes in 0_u64..200, kept_at in 0_u64..100, there in 0_u8..10, spoiled in 0_u8..10)
        -> (String, Kept, Option<u64>, bool) {
        let name = format!("{stem}.{}", ["wav", "xml", "json"][ext]);
        let length = match there { 0 => None, 1 => Some(bytes + 1), _ => Some(bytes) };
        let kept = kept(&name, bytes, kept_at * HOUR);
        (name, kept, length, spoiled == 0)
    }
}

proptest! {
    #[test]
    fn the_laws_of_the_archive_hold(
        files in prop::collection::vec(file(), 0..40), foreign in 0_u64..500,
        max_bytes in prop::option::of(0_u64..2_000), max_age in prop::option::of(0_u64..100), lived in 0_u64..120, most in 1_usize..30,
    ) {
        let (mut records, mut present) = (BTreeMap::new(), Present { foreign, ..Present::default() });
        for (name, kept, length, spoiled) in files {
            if records.contains_key(&name) {
                continue;
            }
            records.insert(name.clone(), kept);
            if let Some(length) = length {
                present.recorded.insert(name.clone(), length);
            }
            if spoiled {
                present.spoiled.insert(name);
            }
        }
        let limits = KeepLimits { max_age: max_age.map(Duration::from_hours), max_bytes };
        let plan = plan_at_most(&records, &present, &limits, lived * HOUR, most);
        let deleted: BTreeSet<&str> = gone(&plan).into_iter().collect();
        prop_assert_eq!(deleted.len(), gone(&plan).len(), "nothing goes twice");

        let is_sound = |name: &str| present.recorded.get(name) == records.get(name).map(|k| &k.bytes) && !present.spoiled.contains(name);
        let age_of = |s: &str| records.iter().filter(|(n, _)| stem(n) == s && present.recorded.contains_key(*n)).map(|(_, k)| k.kept_at).max().unwrap_or(0);
        let may_go = |s: &str| present.recorded.keys().filter(|n| stem(n) == s).all(|n| is_sound(n));
        for name in &deleted {
            // Only what has a record, and is what was recorded; and never without the rest of its unit.
            prop_assert!(records.contains_key(*name) && is_sound(name));
            let unit = present.recorded.keys().filter(|n| stem(n) == stem(name));
            prop_assert!(unit.clone().all(|n| deleted.contains(n.as_str())), "{} goes alone", name);
        }
        let left: Vec<_> = present.recorded.keys().filter(|n| !deleted.contains(n.as_str())).collect();
        let bytes = left.iter().map(|n| present.recorded[*n]).sum::<u64>() + foreign;
        prop_assert_eq!((plan.files, plan.bytes), (left.len() as u64, bytes));
        // Oldest first: nothing that may go and stays is older than what goes for room.
        for name in left.iter().filter(|n| may_go(stem(n))) {
            prop_assert!(deleted.iter().all(|gone| age_of(stem(gone)) <= age_of(stem(name))));
        }
        // The limits hold, unless nothing that may go is left.
        if left.iter().any(|n| may_go(stem(n))) {
            prop_assert!(max_bytes.is_none_or(|most| bytes <= most));
            prop_assert!(left.len() <= most);
        }
        for name in left.iter().filter(|n| may_go(stem(n))) {
            let age = (lived * HOUR).saturating_sub(age_of(stem(name)));
            prop_assert!(max_age.is_none_or(|most| age <= most * HOUR));
        }
        // No more goes than must: the last to go was too old, or without it a limit would not hold.
        if let Some(last) = plan.delete.last() {
            let size: u64 = last.files.iter().map(|n| present.recorded[n]).sum();
            let must = match last.why {
                Why::Age => true,
                Why::Room => max_bytes.is_some_and(|most| bytes + size > most),
                Why::Count => left.len() + last.files.len() > most,
            };
            prop_assert!(must);
        }
        prop_assert_eq!(plan.delete.is_empty() && left.is_empty(), present.recorded.is_empty());
    }
}
