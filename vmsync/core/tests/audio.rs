//! Measuring audio: each file of `data/audio` against `data/audio/expected.txt`, and laws.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail their test"
)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use proptest::prelude::*;
use vmsync_core::audio::{Measured, NotAudio, measure};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/audio")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).expect(name)
}

fn in_words(result: Result<Measured, NotAudio>) -> String {
    match result {
        Ok(m) => format!(
            "{} {} {} {}",
            m.codec, m.content_type, m.sample_rate, m.duration_ms
        ),
        Err(why) => format!("refused: {why}"),
    }
}

#[test]
fn every_file_is_what_the_table_says() {
    let table = String::from_utf8(file("expected.txt")).expect("UTF-8");
    let mut expected: BTreeMap<_, _> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once("=>"))
        .map(|(name, result)| (name.trim().to_owned(), result.trim().to_owned()))
        .collect();
    for entry in fs::read_dir(folder()).expect("folder") {
        let name = entry
            .expect("entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        if name == "expected.txt" || name.starts_with('.') {
            continue;
        }
        let wanted = expected
            .remove(&name)
            .unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(in_words(measure(&file(&name))), wanted, "{name}");
    }
    assert!(expected.is_empty(), "in the table only: {expected:?}");
}

#[test]
fn the_demonstration_recordings_are_taken() {
    let voice = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/voice");
    for name in ["one.wav", "two.wav", "greeting.wav"] {
        let measured = measure(&fs::read(voice.join(name)).expect(name)).expect(name);
        assert_eq!(measured.codec, "pcm16");
        assert!(
            (2000..=4500).contains(&measured.duration_ms),
            "{name}: {measured:?}"
        );
    }
}

/// A whole file cut anywhere inside its sound is refused, never measured shorter.
#[test]
fn a_file_cut_anywhere_is_refused() {
    for name in [
        "pcm16-8k.wav",
        "ulaw-8k.wav",
        "extensible.wav",
        "opus.ogg",
        "opus-pages.ogg",
    ] {
        let whole = file(name);
        for cut in 0..whole.len() {
            let result = measure(&whole[..cut]);
            assert!(result.is_err(), "{name} cut to {cut} bytes: {result:?}");
        }
    }
}

fn any_sound() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        "pcm16-8k.wav",
        "extensible.wav",
        "odd-chunks.wav",
        "opus.ogg",
    ])
    .prop_map(file)
}

proptest! {
    /// No bytes make it panic, and every refusal fits one line of an SMTP reply (RFC 5321 section 4.5.3.1.5).
    #[test]
    fn any_bytes_are_answered(
        magic in prop::sample::select(vec![&b""[..], b"RIFF\0\0\0\0WAVE", b"OggS\0\x02", b"RIFF"]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Err(NotAudio(text)) = measure(&[magic, &rest].concat()) {
            prop_assert!(text.len() < 400 && text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
        }
    }

    /// Damage anywhere in a real file is survived.
    #[test]
    fn damaged_files_are_answered(mut sound in any_sound(), at in any::<prop::sample::Index>(), to in any::<[u8; 4]>()) {
        let at = at.index(sound.len() - 4);
        sound[at..at + 4].copy_from_slice(&to);
        if let Ok(m) = measure(&sound) {
            prop_assert!(m.duration_ms <= 8_000_000_000);
        }
    }

    /// PCM of n samples lasts n / rate, whatever chunks stand around it.
    #[test]
    fn length_is_samples_over_rate(
        samples in 1_u32..20_000,
        wide in any::<bool>(),
        junk in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let rate: u32 = if wide { 16_000 } else { 8_000 };
        let mut body = b"WAVEjunk".to_vec();
        body.extend(u32::try_from(junk.len()).expect("short").to_le_bytes());
        body.extend(&junk);
        body.resize(body.len() + junk.len() % 2, 0);
        body.extend(b"fmt \x10\0\0\0\x01\0\x01\0");
        body.extend(rate.to_le_bytes());
        body.extend((rate * 2).to_le_bytes());
        body.extend(b"\x02\0\x10\0data");
        body.extend((samples * 2).to_le_bytes());
        body.resize(body.len() + samples as usize * 2, 7);
        let mut wav = b"RIFF".to_vec();
        wav.extend(u32::try_from(body.len()).expect("short").to_le_bytes());
        wav.extend(body);
        let measured = measure(&wav).expect("a whole WAV");
        prop_assert_eq!(measured.duration_ms, u64::from(samples) * 1000 / u64::from(rate));
    }
}
