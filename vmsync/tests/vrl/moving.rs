//! Recordings on their way from the backup to the primary (R-VR-1, R-VR-4), with what goes wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::support::{Backup, Mood, Pki, Primary, until, until_done};
use vmsync::vrl::{
    ConfirmAnswer, VrlState,
    server::{ServerOptions, ServerTls},
    take,
};
use vmsync_config::{DailyWindow, VrlTls};
use vmsync_core::vrl::State;

fn audio(len: usize) -> Vec<u8> {
    // LF, CR, NUL and 0xFF are in it: all that an ASCII transfer would spoil.
    (0..len)
        .map(|n| u8::try_from(n * 7 % 256).unwrap())
        .collect()
}

#[tokio::test]
async fn recordings_move_byte_for_byte() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    backup.records("call.wav", &audio(300_000));
    backup.records("Gespräch mit Jörg 通話.wav", &audio(1_000));
    backup.records("empty.wav", b"");
    backup.records(".hidden", b"not a recording");
    backup.records("growing.part", b"not a recording");
    let sent = backup.files();
    let (handle, _stop) = backup.start_allowed();
    let status = until_done(&handle, 3).await;
    assert_eq!(
        (status.state, status.bytes_done, status.last_error),
        (VrlState::Done, 301_000, None)
    );
    let there = primary.files();
    assert_eq!(there.len(), 3, "{:?}", there.keys());
    for (name, bytes) in there {
        assert_eq!(bytes, sent[&name], "{name}");
    }
    assert_eq!(backup.files().len(), 2, "hidden and unfinished files stay");
    assert!(backup.journal.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn recordings_move_over_tls() {
    let pki = Pki::new();
    let tls = ServerTls {
        config: pki.server.clone(),
        required: true,
    };
    let primary = Primary::start(Some(tls)).await;
    let mut backup = Backup::of(&primary);
    backup.records("call.wav", &audio(300_000));
    let (plain, stop) = backup.start_allowed();
    until("refused without TLS", || {
        plain.status().last_error.is_some_and(|e| e.contains("TLS"))
    })
    .await;
    stop.cancel();
    assert!(backup.files().contains_key("call.wav"));
    backup.remote.tls = VrlTls::Required;
    backup.tls = Some(pki.client);
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    assert_eq!(primary.files()["call.wav"], audio(300_000));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let tls = ServerTls {
        config: Pki::new().server,
        required: true,
    };
    let primary = Primary::start(Some(tls)).await;
    let mut backup = Backup::of(&primary);
    backup.remote.tls = VrlTls::Required;
    backup.tls = Some(Pki::new().client);
    backup.records("call.wav", b"audio");
    let (handle, _stop) = backup.start_allowed();
    let steps = handle.test().await;
    let last = steps.last().unwrap();
    assert_eq!((last.step.as_str(), last.ok), ("tls", false), "{last:?}");
    assert!(last.advice.as_ref().unwrap().contains("[tls] ca"));
    assert!(backup.files().contains_key("call.wav"));
}

#[tokio::test]
async fn nothing_moves_before_the_primary_serves_again() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    let (handle, _stop) = backup.start();
    handle.allow(false, "group primary is in resilience");
    let taken = take(&backup.folder(), "call.wav", audio(100), None, 0)
        .await
        .unwrap();
    handle.taken(taken);
    until("it waits with the reason", || {
        let s = handle.status();
        s.state == VrlState::Waiting && s.files_pending == 1 && s.why.contains("resilience")
    })
    .await;
    assert!(backup.control.asked.lock().unwrap().is_empty());
    handle.allow(true, "the primary owns its group");
    until_done(&handle, 1).await;
    assert_eq!(primary.files()["call.wav"], audio(100));
}

#[tokio::test]
async fn killed_at_any_state_it_ends_well() {
    for state in [State::Sending, State::Sent, State::Verified] {
        let primary = Primary::start(None).await;
        let backup = Backup::of(&primary);
        backup.records("call.wav", &audio(500_000));
        let (first, stop) = backup.start();
        *backup.journal.trap.lock().unwrap() = Some((state, stop.clone()));
        first.allow(true, "go");
        tokio::time::timeout(Duration::from_secs(10), stop.cancelled())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let (handle, _stop) = backup.start_allowed();
        until("it is moved", || handle.status().state == VrlState::Done).await;
        let there = primary.files();
        assert_eq!(there.len(), 1, "killed at {state:?}: {:?}", there.keys());
        assert_eq!(there["call.wav"], audio(500_000), "killed at {state:?}");
        assert!(backup.files().is_empty(), "killed at {state:?}");
        assert!(
            backup.journal.records.lock().unwrap().is_empty(),
            "killed at {state:?}"
        );
    }
}

#[tokio::test]
async fn a_lost_journal_makes_no_second_copy() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    std::fs::create_dir_all(primary.folder()).unwrap();
    std::fs::write(primary.folder().join("call.wav"), audio(1000)).unwrap();
    backup.records("call.wav", &audio(1000));
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    assert_eq!(primary.files().len(), 1);
}

#[tokio::test]
async fn other_content_under_the_same_name_loses_neither() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    std::fs::create_dir_all(primary.folder()).unwrap();
    std::fs::write(primary.folder().join("call.wav"), b"theirs").unwrap();
    backup.records("call.wav", b"ours");
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    let there = primary.files();
    assert_eq!(there["call.wav"], b"theirs");
    let kept: Vec<_> = there
        .iter()
        .filter(|(n, _)| n.starts_with("call~"))
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].1, b"ours");
    assert!(backup.files().is_empty());
}

#[tokio::test]
async fn the_local_copy_stays_until_the_node_confirms() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    backup.records("call.wav", &audio(1000));
    *backup.control.mood.lock().unwrap() = Mood::Unreachable;
    let (handle, _stop) = backup.start_allowed();
    until("it fails", || handle.status().state == VrlState::Failed).await;
    assert!(handle.status().last_error.unwrap().contains("no route"));
    assert!(primary.files().is_empty(), "asked first, sent nothing");

    *backup.control.mood.lock().unwrap() = Mood::Elsewhere;
    until("the wrong folder is named", || {
        handle
            .status()
            .last_error
            .is_some_and(|e| e.contains("remote_location"))
    })
    .await;
    assert_eq!(
        primary.files()["call.wav"],
        audio(1000),
        "the FTP server has it"
    );
    assert_eq!(backup.files()["call.wav"], audio(1000), "and so have we");

    *backup.control.mood.lock().unwrap() = Mood::Honest;
    handle.kick();
    until_done(&handle, 1).await;
    assert_eq!(
        primary
            .files()
            .iter()
            .filter(|(n, _)| !n.starts_with('.'))
            .count(),
        1
    );
}

#[tokio::test]
async fn what_was_recorded_after_the_confirmation_is_not_lost() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    backup.records("call.wav", b"first half");
    let path = backup.folder().join("call.wav");
    let mut once = Some(path);
    *backup.control.before.lock().unwrap() = Some(Box::new(move |answer| {
        if *answer == ConfirmAnswer::Durable
            && let Some(path) = once.take()
        {
            std::fs::write(path, b"first half, second half").unwrap();
        }
    }));
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    let there: Vec<_> = primary.files().into_values().collect();
    assert!(there.contains(&b"first half, second half".to_vec()));
    assert!(there.contains(&b"first half".to_vec()));
    assert!(backup.files().is_empty());
}

#[tokio::test]
async fn a_primary_that_comes_late_gets_everything() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    let right = backup.remote.port;
    // A port that was free a moment ago.
    backup.remote.port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for n in 0..20 {
        backup.records(&format!("call{n}.wav"), &audio(n * 100));
    }
    let (handle, stop) = backup.start_allowed();
    until("it fails", || handle.status().state == VrlState::Failed).await;
    assert_eq!(handle.status().files_pending, 20);
    stop.cancel();
    backup.remote.port = right;
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 20).await;
    assert_eq!(primary.files().len(), 20);
}

#[tokio::test]
async fn a_node_without_a_remote_says_so() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    let handle = vmsync::vrl::mover::start(vmsync::vrl::mover::Setup {
        vrl: vmsync_config::Vrl {
            folder: backup.folder(),
            remote: None,
            server: None,
            right: true,
        },
        tls: None,
        journal: std::sync::Arc::new(backup.journal.clone()),
        confirm: backup.control.clone(),
        archive: None,
        now: vmsync::clock::now,
        stop: tokio_util::sync::CancellationToken::new(),
        tuning: vmsync::vrl::mover::Tuning::default(),
    });
    assert_eq!(handle.status().state, VrlState::Off);
    assert!(!handle.test().await[0].ok);
}

/// Recordings move in the night, but an operator who asks need not wait for it.
#[tokio::test]
async fn outside_of_the_daily_window_recordings_wait_unless_an_operator_asks() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    let minute = vmsync::clock::local_second(vmsync::clock::wall()) / 60;
    let in_minutes = |n: u64| u16::try_from((minute + n) % 1440).unwrap();
    backup.remote.window = Some(DailyWindow {
        opens: in_minutes(120),
        closes: in_minutes(180),
    });
    backup.records("one.wav", &audio(100));
    backup.records("two.wav", &audio(200));
    let (handle, stop) = backup.start_allowed();
    until("it waits for the window", || {
        let s = handle.status();
        s.state == VrlState::Waiting && s.files_pending == 2 && s.why.contains("vrl.window")
    })
    .await;
    assert!(backup.control.asked.lock().unwrap().is_empty());
    handle.kick();
    until_done(&handle, 2).await;
    // The next one waits again.
    backup.records("three.wav", &audio(300));
    until("the next to wait", || {
        let s = handle.status();
        s.state == VrlState::Waiting && s.files_pending == 1 && s.why.contains("vrl.window")
    })
    .await;
    stop.cancel();
    backup.remote.window = Some(DailyWindow {
        opens: in_minutes(1440 - 60),
        closes: in_minutes(60),
    });
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    assert_eq!(primary.files().len(), 3);
}

/// A limit is for the line's other users: what is sent takes at least as long as it says.
#[tokio::test]
async fn recordings_take_no_more_of_the_line_than_they_may() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.rate = Some(1_000_000);
    backup.records("call.wav", &audio(1_500_000));
    let begun = vmsync::clock::now().mono;
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    let took = vmsync::clock::now().mono.saturating_sub(begun);
    assert!(
        took.as_millis() >= 1_300,
        "{took:?} for 1.5 s worth of bytes"
    );
    assert_eq!(primary.files()["call.wav"], audio(1_500_000));
}

/// `preferred` does without TLS only where the server says that it has none.
#[tokio::test]
async fn preferred_tls_is_used_where_offered_and_never_with_a_wrong_certificate() {
    let pki = Pki::new();
    let offers = |pki: &Pki| ServerTls {
        config: pki.server.clone(),
        required: true,
    };
    for (server, name) in [(None, "plain"), (Some(offers(&pki)), "encrypted")] {
        let primary = Primary::start(server).await;
        let mut backup = Backup::of(&primary);
        backup.remote.tls = VrlTls::Preferred;
        backup.tls = Some(pki.client.clone());
        backup.records("call.wav", &audio(1_000));
        let (handle, _stop) = backup.start_allowed();
        let steps = handle.test().await;
        assert!(steps.iter().all(|s| s.ok), "{name}: {steps:?}");
        until_done(&handle, 1).await;
        assert_eq!(primary.files()["call.wav"], audio(1_000), "{name}");
    }
    let primary = Primary::start(Some(offers(&Pki::new()))).await;
    let mut backup = Backup::of(&primary);
    backup.remote.tls = VrlTls::Preferred;
    backup.tls = Some(pki.client);
    backup.records("call.wav", &audio(1_000));
    let (handle, _stop) = backup.start_allowed();
    until("the certificate to be refused", || {
        let error = handle.status().last_error;
        error.is_some_and(|e| e.contains("certificate"))
    })
    .await;
    assert!(primary.files().is_empty());
}

/// What a recorder notes beside its audio goes with it, under the same name.
#[tokio::test]
async fn a_recording_and_its_side_files_move_as_one() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    std::fs::create_dir_all(primary.folder()).unwrap();
    // Of the second call the primary holds another one's notes.
    std::fs::write(primary.folder().join("two.xml"), b"theirs").unwrap();
    for (name, bytes) in [
        ("one.wav", "audio one"),
        ("one.xml", "<one/>"),
        ("one.wav.json", "{}"),
        ("two.wav", "audio two"),
        ("two.xml", "<two/>"),
    ] {
        backup.records(name, bytes.as_bytes());
    }
    let (handle, _stop) = backup.start_allowed();
    let status = until_done(&handle, 2).await;
    assert_eq!(
        (status.files_done, status.bytes_done),
        (2, 9 + 6 + 2 + 9 + 6)
    );
    assert!(backup.files().is_empty());
    let there: Vec<_> = primary
        .files()
        .into_iter()
        .map(|(name, bytes)| format!("{name}: {}", String::from_utf8(bytes).unwrap()))
        .collect();
    assert_eq!(
        there,
        [
            "one.wav: audio one",
            "one.wav.json: {}",
            "one.xml: <one/>",
            "two.xml: theirs",
            "two~01f65191.wav: audio two",
            "two~01f65191.xml: <two/>",
        ]
    );
    assert!(backup.journal.records.lock().unwrap().is_empty());
}

/// With several connections several are on their way, and all arrive.
#[tokio::test]
async fn several_move_at_once() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.connections = 3;
    backup.remote.rate = Some(3_000_000);
    for n in 0..9 {
        backup.records(&format!("call{n}.wav"), &audio(200_000 + n));
    }
    let (handle, _stop) = backup.start_allowed();
    until("three to be on their way", || {
        handle.status().on_the_way.len() == 3
    })
    .await;
    let status = handle.status();
    assert_eq!(status.files_pending + status.files_done, 9, "{status:?}");
    assert!(status.stalled_s.is_some());
    let status = until_done(&handle, 9).await;
    assert_eq!((status.on_the_way.len(), status.stalled_s), (0, None));
    assert_eq!(primary.files().len(), 9);
}

/// A server that takes fewer connections than configured is no failure.
#[tokio::test]
async fn a_server_that_takes_one_connection_gets_one() {
    let options = ServerOptions {
        min_free_bytes: 0,
        per_address: 1,
        ..ServerOptions::default()
    };
    let primary = Primary::start_with(None, options).await;
    let mut backup = Backup::of(&primary);
    backup.remote.connections = 8;
    for n in 0..40 {
        backup.records(&format!("call{n}.wav"), &audio(50_000 + n));
    }
    let (handle, _stop) = backup.start_allowed();
    let status = until_done(&handle, 40).await;
    assert_eq!(status.last_error, None);
    assert_eq!(primary.files().len(), 40);
}

/// What waits is found in no time, and nothing is read of it, nor written for it, before its turn.
#[tokio::test]
async fn a_hundred_thousand_recordings_at_start_cost_seconds() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    for n in 0..100_000 {
        std::fs::File::create(backup.folder().join(format!("call-{n}.wav"))).unwrap();
    }
    let begun = vmsync::clock::now().mono;
    let (handle, _stop) = backup.start();
    until("all to be known", || {
        handle.status().files_pending == 100_000
    })
    .await;
    let took = vmsync::clock::now().mono.saturating_sub(begun);
    println!("100,000 recordings known after {took:?}");
    assert!(backup.journal.records.lock().unwrap().is_empty());
    assert!(backup.control.asked.lock().unwrap().is_empty());
}

/// A file that changes while it is sent is not named at the primary, and is sent as it is then.
#[tokio::test]
async fn a_recording_that_changes_on_its_way_arrives_as_it_is_at_the_end() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.rate = Some(1_000_000);
    backup.records("call.wav", &audio(600_000));
    let (handle, _stop) = backup.start_allowed();
    until("it to be on its way", || {
        handle.status().current.is_some_and(|c| c.sent > 0)
    })
    .await;
    let other: Vec<u8> = audio(600_000).into_iter().rev().collect();
    backup.records("call.wav", &other);
    until_done(&handle, 1).await;
    let there = primary.files();
    assert_eq!(there.len(), 1, "{:?}", there.keys());
    assert!(there["call.wav"] == other, "the bytes differ");
}

/// R-VR-3: what a PBX puts into the folder while this node may not record stays there, is told, and moves once
/// it may; what was recorded before moves all the same.
#[tokio::test]
async fn what_is_dropped_without_the_right_stays_until_there_is_one() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    backup.records("before.wav", b"by right");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (handle, _stop) = backup.start();
    handle.refuse(Some(
        "this node has no media-manager right (R-VR-3)".to_owned(),
    ));
    tokio::time::sleep(Duration::from_millis(20)).await;
    backup.records("dropped.wav", b"not by right");
    handle.allow(true, "the primary owns its group");
    until("the refusal to be told", || {
        let status = handle.status();
        status.refused == ["dropped.wav"] && status.files_done == 1
    })
    .await;
    let status = handle.status();
    assert_eq!(status.state, VrlState::Waiting, "{status:?}");
    assert!(status.why.contains("media-manager right"), "{status:?}");
    assert!(!primary.files().contains_key("dropped.wav"));
    handle.refuse(None);
    until_done(&handle, 2).await;
    assert_eq!(primary.files()["dropped.wav"], b"not by right");
}

/// What is noted beside a recording may come late: as long as somebody has it open, all of it waits.
#[tokio::test]
async fn a_side_file_that_is_still_written_is_waited_for() {
    use std::io::Write as _;
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    let (handle, _stop) = backup.start_allowed();
    until("the folder to be watched", || {
        handle.status().state == VrlState::Done
    })
    .await;
    let mut notes = std::fs::File::create(backup.folder().join("call.xml")).unwrap();
    notes.write_all(b"<call>").unwrap();
    notes.flush().unwrap();
    backup.records("call.wav", &audio(1_000));
    until("the recording to be seen", || {
        handle.status().files_pending > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(primary.files().is_empty(), "{:?}", primary.files().keys());
    notes.write_all(b"</call>").unwrap();
    drop(notes);
    until_done(&handle, 1).await;
    let there = primary.files();
    assert_eq!(there["call.xml"], b"<call></call>");
    assert_eq!(there["call.wav"], audio(1_000));
    assert_eq!(there.len(), 2);
}

/// Two recordings of one stem share what is beside them: it goes with one of them, once.
#[tokio::test]
async fn recordings_of_one_stem_do_not_fight_over_a_side_file() {
    for round in 0..5 {
        let primary = Primary::start(None).await;
        let backup = Backup::of(&primary);
        for n in 0..6 {
            backup.records(&format!("call{n}.wav"), &audio(20_000 + n));
            backup.records(&format!("call{n}.opus"), &audio(10_000 + n));
            backup.records(&format!("call{n}.xml"), b"<call/>");
        }
        let sent = backup.files();
        let (handle, _stop) = backup.start_allowed();
        until_done(&handle, 12).await;
        let there: Vec<_> = primary.files().into_keys().collect();
        let names: Vec<_> = sent.into_keys().collect();
        assert_eq!(there, names, "round {round}");
    }
}

/// An operator who starts the move means what is there, also what the node has not yet looked at.
#[tokio::test]
async fn a_start_by_hand_is_for_what_lies_there_unseen_too() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    let minute = vmsync::clock::local_second(vmsync::clock::wall()) / 60;
    let in_minutes = |n: u64| u16::try_from((minute + n) % 1440).unwrap();
    backup.remote.window = Some(DailyWindow {
        opens: in_minutes(120),
        closes: in_minutes(180),
    });
    for n in 0..10 {
        let (handle, stop) = backup.start_allowed();
        backup.records(&format!("call{n}.wav"), &audio(100));
        handle.kick();
        until_done(&handle, 1).await;
        stop.cancel();
    }
    assert_eq!(primary.files().len(), 10);
}
