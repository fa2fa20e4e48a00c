//! Call recordings: made at the backup, moved home over FTP, never on neither node (R-VR).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{path::Path, time::Duration};

use reqwest::Method;
use serde_json::json;
use vmsync_tests::pair::{Ended, GREETING, Pair, installed, run, soon, wav};

/// R-VR-1, R-VR-4: at every moment each recording is whole on one node at least.
#[tokio::test]
async fn recordings_made_at_the_backup_move_home_even_if_it_is_killed_meanwhile() {
    let pair = Pair::start().await;
    pair.fail_over().await;
    let backup = &pair.secondary;
    let recordings: Vec<_> = (0..6)
        .map(|n| (format!("2026-11-22_2003_{n}.wav"), wav(40 + n)))
        .collect();
    for (name, audio) in &recordings {
        let path = format!("/api/v1/vrl/recordings?name={name}");
        backup
            .request(Method::POST, &path)
            .wav(audio)
            .send()
            .await
            .must_be(201);
        backup
            .request(Method::POST, &path)
            .wav(audio)
            .send()
            .await
            .must_be(200);
        assert!(
            holds(&backup.vrl_dir, name, audio),
            "{name} is not in the folder"
        );
    }
    pair.primary.start().await;
    pair.served_by(&pair.primary).await;
    soon("the first recording to arrive", async || {
        let there = recordings
            .iter()
            .filter(|(name, audio)| holds(&pair.primary.vrl_dir, name, audio))
            .count();
        if there > 0 {
            Ok(())
        } else {
            Err("none yet".to_owned())
        }
    })
    .await;
    backup.kill().await;
    each_is_somewhere(&pair, &recordings);
    backup.start().await;
    soon("all recordings to arrive", async || {
        each_is_somewhere(&pair, &recordings);
        let left: Vec<_> = recordings
            .iter()
            .filter(|(name, _)| backup.vrl_dir.join(name).exists())
            .map(|(name, _)| name)
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?} are at the backup"))
        }
    })
    .await;
    for (name, audio) in &recordings {
        assert!(
            holds(&pair.primary.vrl_dir, name, audio),
            "{name} is not at the primary"
        );
    }
    // The file goes first, the count of it a moment later.
    soon("the mover to say that nothing is left", async || {
        let vrl = backup.try_get("/api/v1/vrl").await?;
        if vrl["files_pending"] == 0 {
            Ok(())
        } else {
            Err(vrl.to_string())
        }
    })
    .await;
}

fn holds(folder: &Path, name: &str, audio: &[u8]) -> bool {
    std::fs::read(folder.join(name)).is_ok_and(|bytes| bytes == audio)
}

fn each_is_somewhere(pair: &Pair, recordings: &[(String, Vec<u8>)]) {
    for (name, audio) in recordings {
        // In this order: what leaves the backup between the two looks must be at the primary.
        let safe = holds(&pair.secondary.vrl_dir, name, audio)
            || holds(&pair.primary.vrl_dir, name, audio);
        assert!(safe, "{name} is whole on neither node");
    }
}

/// R-VR-2, and what an administrator sees with an FTP client of his own.
#[tokio::test]
async fn the_ftp_server_serves_other_clients_over_tls_only() {
    installed("lftp");
    let pair = Pair::start().await;
    let tested = pair
        .secondary
        .post("/api/v1/vrl/test", &json!({}))
        .await
        .must_be(200)
        .json();
    assert_eq!(tested["ok"], true, "{tested}");

    std::fs::write(pair.primary.vrl_dir.join("call.wav"), GREETING).unwrap();
    let password = std::fs::read_to_string(pair.layout().join("ftp.password")).unwrap();
    let (ca, here) = (
        pair.layout().join("pki/ca.pem"),
        pair.dir().join("fetched.wav"),
    );
    let tls = format!(
        "set ssl:ca-file {}; set ftp:ssl-force true; set ftp:ssl-protect-data true;",
        ca.display()
    );
    let listed = lftp(
        &pair,
        password.trim(),
        &format!("{tls} cls -1; get call.wav -o {}", here.display()),
    )
    .await
    .well();
    assert!(
        listed.out.lines().any(|l| l == "call.wav"),
        "{}",
        listed.out
    );
    assert!(
        std::fs::read(&here).unwrap() == GREETING,
        "the recording differs"
    );

    let plain = lftp(&pair, password.trim(), "set ftp:ssl-allow false; cls -1").await;
    assert_ne!(plain.code, Some(0), "{}", plain.out);
    let wrong = lftp(&pair, "wrong", &format!("{tls} cls -1")).await;
    assert_ne!(wrong.code, Some(0), "{}", wrong.out);
    assert!(wrong.err.contains("530"), "{}", wrong.err);
    let up = lftp(
        &pair,
        password.trim(),
        &format!("{tls} get ../../../../etc/hostname -o {}", here.display()),
    )
    .await;
    assert_ne!(up.code, Some(0), "outside the folder: {}", up.out);
}

async fn lftp(pair: &Pair, password: &str, commands: &str) -> Ended {
    let address = pair.primary.ftp.as_ref().unwrap();
    let limits = "set cmd:fail-exit true; set net:timeout 10; set net:max-retries 1; set net:reconnect-interval-base 1;";
    let script = format!("{limits} open -u vrl,{password} ftp://{address}; {commands}; bye");
    run("lftp", &["-c", &script], Duration::from_secs(40)).await
}

/// R-VR-1, R-VR-4: whichever node is killed, and how often, each recording is whole on one of them at every
/// moment, and on the primary at the end, once.
#[tokio::test]
async fn both_nodes_are_killed_over_and_over_and_each_recording_arrives_once() {
    let pair = Pair::laid_out().await;
    // Slow enough to be caught at it.
    let slow = "tls = \"required\"\nrate = \"4MB\"\n[[systems]]";
    pair.secondary
        .configure("tls = \"required\"\n\n[[systems]]", slow);
    pair.start_both().await;
    let recordings: Vec<_> = (0..40)
        .map(|n| (format!("2026-11-23_{n:02}.wav"), wav(1 + n % 7 * (n % 11))))
        .collect();
    // As a PBX does that records into the folder itself.
    for (name, audio) in &recordings {
        std::fs::write(pair.secondary.vrl_dir.join(name), audio).unwrap();
    }
    for round in 0..6_u64 {
        let node = [&pair.secondary, &pair.primary][usize::try_from(round % 2).unwrap()];
        tokio::time::sleep(Duration::from_millis(1_500 + 230 * round)).await;
        node.kill().await;
        each_is_somewhere(&pair, &recordings);
        node.start().await;
    }
    soon("all recordings to arrive", async || {
        each_is_somewhere(&pair, &recordings);
        let left = std::fs::read_dir(&pair.secondary.vrl_dir).unwrap().count();
        if left == 0 {
            Ok(())
        } else {
            let vrl = pair.secondary.try_get("/api/v1/vrl").await?;
            Err(format!("{left} are at the backup: {vrl}"))
        }
    })
    .await;
    let mut there: Vec<_> = std::fs::read_dir(&pair.primary.vrl_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    let names: Vec<_> = recordings.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(there, names);
}

/// With `[vrl.archive]` the backup keeps what it moved, and tells so.
#[tokio::test]
async fn what_was_moved_is_kept_in_the_archive() {
    let pair = Pair::laid_out().await;
    let archive = pair.secondary.vrl_dir.with_file_name("VRL-moved");
    let lines = format!(
        "\n[vrl.archive]\nfolder = \"{}\"\nmax_age = \"30d\"\n",
        archive.display()
    );
    pair.secondary.configure_more(&lines);
    pair.start_both().await;
    let folder = &pair.secondary.vrl_dir;
    std::fs::write(folder.join("call.wav"), wav(3)).unwrap();
    std::fs::write(folder.join("call.xml"), "<call/>").unwrap();
    soon("it to be moved and kept", async || {
        let vrl = pair.secondary.try_get("/api/v1/vrl").await?;
        if vrl["files_done"] == 1 && vrl["archive"]["files"] == 2 {
            Ok(())
        } else {
            Err(vrl.to_string())
        }
    })
    .await;
    for folder in [&pair.primary.vrl_dir, &archive] {
        assert!(holds(folder, "call.wav", &wav(3)), "{}", folder.display());
        assert!(
            holds(folder, "call.xml", b"<call/>"),
            "{}",
            folder.display()
        );
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
