//! The folder's promises.

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn taking_twice_is_once_and_other_content_is_kept_beside() {
    let dir = folder();
    let first = take(dir.path(), "call.wav", &b"one"[..], None, 0)
        .await
        .unwrap();
    assert!(first.new);
    let again = take(dir.path(), "call.wav", &b"one"[..], Some(&first.sha256), 0)
        .await
        .unwrap();
    assert!(!again.new);
    let other = take(dir.path(), "call.wav", &b"two"[..], None, 0)
        .await
        .unwrap();
    assert_eq!(other.name, format!("call~{}.wav", &other.sha256[..8]));
    assert_eq!(fs::read(dir.path().join("call.wav")).unwrap(), b"one");
    assert_eq!(fs::read(dir.path().join(&other.name)).unwrap(), b"two");
    assert_eq!(list(dir.path()).unwrap().recordings.len(), 2);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let dir = folder();
    let wrong = take(dir.path(), "a.wav", &b"x"[..], Some("00"), 0).await;
    assert!(matches!(wrong, Err(TakeError::Damaged { .. })));
    let full = take(dir.path(), "a.wav", &b"x"[..], None, u64::MAX).await;
    assert!(matches!(full, Err(TakeError::Full { .. })));
    let name = take(dir.path(), "../a.wav", &b"x"[..], None, 0).await;
    assert!(matches!(name, Err(TakeError::Name(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn only_recordings_are_listed() {
    let dir = folder();
    for name in ["b.wav", "a.wav", ".a.part", "c.part", " x "] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link.wav")).unwrap();
    let listing = list(dir.path()).unwrap();
    let names: Vec<_> = listing.recordings.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["a.wav", "b.wav"]);
    assert_eq!(listing.unfit.len(), 1);
    assert!(
        list(&dir.path().join("missing"))
            .unwrap()
            .recordings
            .is_empty()
    );
}

#[test]
fn the_receiving_side_compares_bytes_not_names() {
    let dir = folder();
    let path = dir.path().join("call.wav");
    fs::write(&path, b"one").unwrap();
    let (bytes, sha256) = hash_file(&path).unwrap();
    let ask = |name: &str, bytes, sha: &str| confirm_local(dir.path(), name, bytes, sha);
    assert_eq!(
        ask("call.wav", bytes, &sha256.to_uppercase()).unwrap(),
        ConfirmAnswer::Durable
    );
    assert_eq!(
        ask("other.wav", bytes, &sha256).unwrap(),
        ConfirmAnswer::Missing
    );
    assert!(matches!(
        ask("call.wav", 4, &sha256).unwrap(),
        ConfirmAnswer::Different { .. }
    ));
    assert!(matches!(
        ask("call.wav", 3, "00").unwrap(),
        ConfirmAnswer::Different { .. }
    ));
    assert_eq!(
        ask(".call~0.wav.part", bytes, &sha256).unwrap(),
        ConfirmAnswer::Missing
    );
    for name in ["../call.wav", "a/b", "", ".hidden", "...part", "a\n"] {
        assert!(ask(name, bytes, &sha256).is_err(), "{name:?} was looked up");
    }
    let long = RecordingName::new(&"ü".repeat(100)).unwrap();
    for name in long
        .candidates(&sha256)
        .iter()
        .chain([&long.temporary(&sha256)])
    {
        assert_eq!(ask(name, bytes, &sha256).unwrap(), ConfirmAnswer::Missing);
    }
}

#[test]
fn a_file_that_changed_is_not_removed() {
    let dir = folder();
    let path = dir.path().join("call.wav");
    fs::write(&path, b"one").unwrap();
    let name = RecordingName::new("call.wav").unwrap();
    let (bytes, sha256) = hash_file(&path).unwrap();
    fs::write(&path, b"one and more").unwrap();
    let part = Part::new(name, bytes, sha256);
    let remove = || remove_if_same(dir.path(), &part, None).unwrap();
    assert_eq!(remove(), Removal::Changed);
    fs::write(&path, b"one").unwrap();
    assert_eq!(remove(), Removal::Removed);
    assert_eq!(remove(), Removal::Gone);
}

#[test]
fn publishing_never_replaces() {
    let dir = folder();
    let (part, to) = (dir.path().join(".x.part"), dir.path().join("x.wav"));
    fs::write(&part, b"new").unwrap();
    fs::write(&to, b"old").unwrap();
    assert_eq!(
        publish(&part, &to).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(fs::read(&to).unwrap(), b"old");
    fs::remove_file(&to).unwrap();
    publish(&part, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"new");
    assert!(!part.exists());
}
