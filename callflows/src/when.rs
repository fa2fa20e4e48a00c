//! Conditions on the calendar and the clock. `now` comes with its time zone from outside.

use std::str::FromStr;

use jiff::{Zoned, civil};

/// A span of the day, from (inclusive) until (exclusive); over midnight when it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeSpan {
    from: civil::Time,
    until: civil::Time,
}

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Days([bool; 7]);

/// Dates from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dates {
    first: civil::Date,
    last: civil::Date,
}

const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl TimeSpan {
    /// Whether `now` lies in it.
    pub(crate) fn holds(self, now: &Zoned) -> bool {
        let time = now.time();
        if self.from <= self.until {
            (self.from..self.until).contains(&time)
        } else {
            time >= self.from || time < self.until
        }
    }
}

impl FromStr for TimeSpan {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{}` is not a span of time such as `08:00-17:30`",
                crate::short(text)
            )
        };
        let (from, until) = text.split_once('-').ok_or_else(expected)?;
        let span = Self {
            from: clock_time(from).ok_or_else(expected)?,
            until: clock_time(until).ok_or_else(expected)?,
        };
        if span.from == span.until {
            return Err(format!("`{text}` is empty: it ends when it begins"));
        }
        Ok(span)
    }
}

/// `08:00`; `24:00` is the last moment of the day.
fn clock_time(text: &str) -> Option<civil::Time> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two_digits = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    if (hour, minute) == ("24", "00") {
        return Some(civil::Time::MAX);
    }
    civil::Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

impl Days {
    /// Whether `now` is such a day.
    pub(crate) fn hold(self, now: &Zoned) -> bool {
        let index = usize::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0);
        self.0.get(index).copied().unwrap_or(false)
    }
}

impl FromStr for Days {
    type Err = String;
    /// `mon`, `mon-fri`, `fri-mon`, `mon, wed, sat-sun`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut days = [false; 7];
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            let count = (last + 7 - first) % 7 + 1;
            for at in (0..7).cycle().skip(first).take(count) {
                if let Some(day) = days.get_mut(at) {
                    *day = true;
                }
            }
        }
        Ok(Self(days))
    }
}

fn day(text: &str) -> Result<usize, String> {
    let name = text.trim().to_ascii_lowercase();
    DAY_NAMES
        .iter()
        .position(|day| *day == name)
        .ok_or_else(|| {
            format!(
                "`{}` is not a day: write {}",
                crate::short(text),
                DAY_NAMES.join(", ")
            )
        })
}

impl Dates {
    /// Whether `now` is such a date.
    pub(crate) fn hold(self, now: &Zoned) -> bool {
        (self.first..=self.last).contains(&now.date())
    }
}

impl FromStr for Dates {
    type Err = String;
    /// `2026-12-24` or `2026-12-24..2026-12-26`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let read = |part: &str| {
            part.trim().parse::<civil::Date>().map_err(|_| {
                format!(
                    "`{}` is not a date such as `2026-12-24` or `2026-12-24..2026-12-26`",
                    crate::short(text)
                )
            })
        };
        let dates = Self {
            first: read(first)?,
            last: read(last)?,
        };
        if dates.last < dates.first {
            return Err(format!("`{text}` is empty: it ends before it begins"));
        }
        Ok(dates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22 is a Sunday.
    fn at(time: &str) -> Zoned {
        format!("2026-11-22T{time}:00+01:00[+01:00]")
            .parse()
            .unwrap()
    }

    #[test]
    fn spans_begin_and_end_and_cross_midnight() {
        let office: TimeSpan = "08:00-17:30".parse().unwrap();
        let night: TimeSpan = "22:00-06:00".parse().unwrap();
        for (time, in_office, in_night) in [
            ("07:59", false, false),
            ("08:00", true, false),
            ("17:29", true, false),
            ("17:30", false, false),
            ("22:00", false, true),
            ("05:59", false, true),
            ("06:00", false, false),
        ] {
            assert_eq!(office.holds(&at(time)), in_office, "office at {time}");
            assert_eq!(night.holds(&at(time)), in_night, "night at {time}");
        }
        assert!(
            "00:00-24:00"
                .parse::<TimeSpan>()
                .unwrap()
                .holds(&at("23:59"))
        );
        for bad in [
            "8-17",
            "08:00",
            "08:00-08:00",
            "25:00-26:00",
            "+8:00-09:00",
            "",
        ] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
        }
    }

    #[test]
    fn days_run_over_the_end_of_the_week() {
        let sunday = at("12:00");
        for (days, holds) in [
            ("sun", true),
            ("mon-fri", false),
            ("fri-mon", true),
            ("mon-sun", true),
            ("mon, Sat-Sun", true),
        ] {
            assert_eq!(days.parse::<Days>().unwrap().hold(&sunday), holds, "{days}");
        }
        assert!("someday".parse::<Days>().is_err());
    }

    #[test]
    fn dates_include_both_ends() {
        let now = at("12:00");
        for (dates, holds) in [
            ("2026-11-22", true),
            ("2026-11-20..2026-11-22", true),
            ("2026-11-23..2026-12-01", false),
        ] {
            assert_eq!(dates.parse::<Dates>().unwrap().hold(&now), holds, "{dates}");
        }
        assert!("2026-11-22..2026-11-01".parse::<Dates>().is_err());
        assert!("2026-02-30".parse::<Dates>().is_err());
    }
}
