//! Durations (`90s`, `1h30m`) and sizes (`32MiB`) as people write them.

use std::{fmt::Write as _, time::Duration};

/// Why a text is no duration or size; says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// Not a duration.
    #[error(
        "{0:?} is not a duration: write a number and a unit (ms, s, m, h, d), such as 90s or 1m30s"
    )]
    Duration(String),
    /// Not a size.
    #[error(
        "{0:?} is not a size: write bytes or a unit (KiB, MiB, GiB, TiB, kB, MB, GB), such as 32MiB"
    )]
    Size(String),
    /// Beyond 64 bits.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// Parses `500ms`, `90s`, `3m`, `1h30m`, `2d`; whole numbers, each with its unit, largest first or not.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidAmount> {
    let invalid = || InvalidAmount::Duration(cut(text));
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        let (unit, after) = split(after, |c| c.is_ascii_alphabetic());
        let one: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid()),
        };
        if number.is_empty() {
            return Err(invalid());
        }
        millis = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(one))
            .and_then(|n| n.checked_add(millis))
            .ok_or_else(|| InvalidAmount::TooLarge(cut(text)))?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

/// Parses a size in bytes: `33554432`, `32MiB`, `500 kB`, `1GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidAmount> {
    let invalid = || InvalidAmount::Size(cut(text));
    let (number, unit) = split(text.trim(), |c| c.is_ascii_digit());
    let one: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(invalid()),
    };
    if number.is_empty() {
        return Err(invalid());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(one))
        .ok_or_else(|| InvalidAmount::TooLarge(cut(text)))
}

/// Writes a duration in the form [`parse_duration`] takes, in one unit: `90s`, `60m`, `24h`, `500ms`.
/// Below a millisecond nothing is kept.
pub fn show_duration(span: Duration) -> String {
    let (number, unit) = in_unit(span);
    let mut text = number.to_string();
    text.push_str(match unit {
        "hour" => "h",
        "minute" => "m",
        "second" => "s",
        _ => "ms",
    });
    text
}

/// Writes a duration in words: `60 minutes`, `1 second`.
pub(crate) fn duration_in_words(span: Duration) -> String {
    let (number, unit) = in_unit(span);
    let mut text = format!("{number} {unit}");
    if number != 1 {
        text.push('s');
    }
    text
}

/// Writes a size in the form [`parse_bytes`] takes: `32MiB`, `1000` for what is no whole KiB.
pub fn show_bytes(bytes: u64) -> String {
    let mut text = String::new();
    let units = [
        (1_u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let (number, unit) = units
        .into_iter()
        .find(|(one, _)| bytes >= *one && bytes.is_multiple_of(*one))
        .map_or((bytes, ""), |(one, unit)| (bytes / one, unit));
    // Writing to a String can't fail.
    let _ = write!(text, "{number}{unit}");
    text
}

/// The largest unit that leaves no rest; hours only from two on, since rules speak of 60 minutes.
fn in_unit(span: Duration) -> (u128, &'static str) {
    let millis = span.as_millis();
    let whole = |one: u128| millis.is_multiple_of(one);
    match millis {
        0 => (0, "second"),
        n if whole(3_600_000) && n >= 7_200_000 => (n / 3_600_000, "hour"),
        n if whole(60_000) => (n / 60_000, "minute"),
        n if whole(1000) => (n / 1000, "second"),
        n => (n, "millisecond"),
    }
}

fn split(text: &str, take: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !take(c)).unwrap_or(text.len()))
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("90s"), Ok(90_000));
        assert_eq!(ms(" 3m "), Ok(180_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("2d"), Ok(172_800_000));
        assert_eq!(ms("0s"), Ok(0));
        for wrong in ["", "90", "s", "1.5s", "-3m", "3 weeks", "1m 30", "９s"] {
            assert!(
                matches!(parse_duration(wrong), Err(InvalidAmount::Duration(_))),
                "{wrong}"
            );
        }
        let wide = "99999999999999999999d";
        assert!(matches!(
            parse_duration(wide),
            Err(InvalidAmount::TooLarge(_))
        ));
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(parse_bytes("33554432"), Ok(32 << 20));
        assert_eq!(parse_bytes("32MiB"), Ok(32 << 20));
        assert_eq!(parse_bytes("500 kB"), Ok(500_000));
        for wrong in ["", "MiB", "1.5MiB", "32Mb", "-1"] {
            assert!(
                matches!(parse_bytes(wrong), Err(InvalidAmount::Size(_))),
                "{wrong}"
            );
        }
        assert!(matches!(
            parse_bytes("99999999999GiB"),
            Err(InvalidAmount::TooLarge(_))
        ));
    }

    #[test]
    fn the_cap_reads_as_the_rule_does() {
        let hour = Duration::from_hours(1);
        assert_eq!(show_duration(hour), "60m");
        assert_eq!(duration_in_words(hour), "60 minutes");
        assert_eq!(show_duration(hour * 24), "24h");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(millis in 0..u64::MAX / 2, bytes in any::<u64>()) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(span)), Ok(span));
            prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_bytes(&text);
        }
    }
}
