//! Small pieces of a page: times, sizes, counts, as people read them.

use maud::{Markup, html};
use vmsync_config::words::UnixMillis;

/// A time: UTC as written by the server; the page's script shows it in the reader's zone.
pub(super) fn time(rfc3339: &str) -> Markup {
    html! { time datetime=(rfc3339) { (plain_time(rfc3339)) } }
}

/// A time of the store.
pub(super) fn moment(at: UnixMillis) -> Markup {
    time(&at.to_string())
}

fn plain_time(rfc3339: &str) -> String {
    rfc3339.parse::<jiff::Timestamp>().map_or_else(
        |_| rfc3339.to_owned(),
        |t| t.strftime("%-d %b %Y, %H:%M:%S UTC").to_string(),
    )
}

/// A size in binary units, three digits or fewer before the point.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(one, _)| bytes >= *one) {
        Some((one, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(one);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A length of audio, `0:07` or `1:02:03`.
pub(super) fn length(ms: u64) -> String {
    // Rounded up: a message of half a second is not one of none.
    let s = ms.div_ceil(1000);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 {
        format!("{h}:{m:02}:{s:02}")
    } else {
        format!("{m}:{s:02}")
    }
}

/// A number and its noun, `1 message`, `7 messages`.
pub(super) fn count(n: u64, noun: &str) -> String {
    let ending = match (n, noun) {
        (1, _) => "",
        (_, "mailbox") => "es",
        _ => "s",
    };
    format!("{n} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_lengths_and_counts() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "17179869183.9 GiB");
        assert_eq!(length(0), "0:00");
        assert_eq!(length(500), "0:01");
        assert_eq!(length(61_000), "1:01");
        assert_eq!(length(3_723_000), "1:02:03");
        assert_eq!(count(1, "mailbox"), "1 mailbox");
        assert_eq!(count(3, "mailbox"), "3 mailboxes");
        assert_eq!(count(0, "call"), "0 calls");
    }

    #[test]
    fn a_time_keeps_its_machine_form() {
        let text = time("2026-11-22T08:43:12.000Z").into_string();
        assert!(
            text.contains("datetime=\"2026-11-22T08:43:12.000Z\""),
            "{text}"
        );
        assert!(text.contains("22 Nov 2026, 08:43:12 UTC"), "{text}");
    }
}
