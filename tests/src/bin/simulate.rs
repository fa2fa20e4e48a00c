//! Runs the simulation of the pair over many seeds, or one of them with its trace; see [`USAGE`].

use std::{
    io::{self, Write},
    ops::Range,
    process::ExitCode,
};

use vmsync::clock;
use vmsync_tests::sim::{self, Failure};

/// Seeds of a run that names no number, as in `cargo test`.
const SEEDS: u64 = 2_000;

const USAGE: &str = "\
Runs the pair in virtual time: two nodes, a bad link, losses of power, all from one number, the seed.

usage: simulate [--seeds N] [--from S]
       simulate --seed S

  --seeds N   run N seeds (2000); prints what happened in all of them, and each seed that failed
  --from S    the first of them (0); `cargo test` runs 0 to 1999
  --seed S    run one seed and print everything that happens in it
  --help      print this

Ends with 0 when every seed ended well, with 1 when one failed, with 2 when it was asked for something else.";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Many(Range<u64>),
    One(u64),
    Help,
}

/// Reads the arguments; an error is one line for people.
fn asked(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let (mut seeds, mut from, mut one) = (None, None, None);
    while let Some(arg) = args.next() {
        let place = match arg.as_str() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--seeds" => &mut seeds,
            "--from" => &mut from,
            "--seed" => &mut one,
            other => return Err(format!("{other}: there is no such argument")),
        };
        let number = args.next().ok_or(format!("{arg}: a number is missing"))?;
        let number: u64 = number
            .parse()
            .map_err(|_| format!("{arg}: {number} is not a whole number from 0 to 2^64-1"))?;
        if place.replace(number).is_some() {
            return Err(format!("{arg} is there twice"));
        }
    }
    match (one, seeds, from) {
        (Some(seed), None, None) => Ok(Asked::One(seed)),
        (Some(_), ..) => Err("--seed runs one seed: --seeds and --from do not go with it".into()),
        (None, seeds, from) => {
            let (seeds, from) = (seeds.unwrap_or(SEEDS), from.unwrap_or(0));
            if seeds == 0 {
                return Err("--seeds 0: nothing would be run".into());
            }
            let end = from.checked_add(seeds);
            let end = end.ok_or(format!("--from {from}: there are no {seeds} seeds from it"))?;
            Ok(Asked::Many(from..end))
        }
    }
}

fn main() -> io::Result<ExitCode> {
    match asked(std::env::args().skip(1)) {
        Ok(Asked::Many(seeds)) => many(seeds),
        Ok(Asked::One(seed)) => one(seed),
        Ok(Asked::Help) => {
            writeln!(io::stdout(), "{USAGE}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            writeln!(io::stderr(), "simulate: {why}; see --help")?;
            Ok(ExitCode::from(2))
        }
    }
}

fn one(seed: u64) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let (trace, why) = sim::told(seed);
    for line in trace {
        writeln!(out, "{line}")?;
    }
    let end = why.as_deref().unwrap_or("ends well");
    writeln!(out, "seed {seed}: {end}")?;
    Ok(if why.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn many(seeds: Range<u64>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let begun = clock::now().mono;
    let (from, count) = (seeds.start, seeds.end - seeds.start);
    let (total, failures) = sim::run_all(seeds, None);
    for (what, count) in &total.counts {
        writeln!(out, "{count:>10} {what}")?;
    }
    for failure in &failures {
        let Failure { seed, why, .. } = failure;
        writeln!(out, "FAILED seed {seed}: {why}")?;
    }
    if let Some(first) = failures.first() {
        writeln!(out, "{first}")?;
    }
    let took = clock::now().mono.saturating_sub(begun).as_secs_f64();
    let failed = failures.len();
    writeln!(
        out,
        "{count} seeds from {from}: {failed} failed, {took:.1} s"
    )?;
    Ok(if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked, String> {
        asked(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_asked_for_is_understood() {
        assert_eq!(read(""), Ok(Asked::Many(0..2_000)));
        assert_eq!(read("--seeds 5 --from 7"), Ok(Asked::Many(7..12)));
        assert_eq!(read("--seed 7"), Ok(Asked::One(7)));
        assert_eq!(read("--seeds 5 --help"), Ok(Asked::Help));
    }

    #[test]
    fn anything_else_is_refused_and_named() {
        for (line, why) in [
            ("--sedes 5", "--sedes: there is no such argument"),
            ("7", "7: there is no such argument"),
            ("--seeds", "--seeds: a number is missing"),
            ("--seeds many", "--seeds: many is not a whole number"),
            ("--from -1", "--from: -1 is not a whole number"),
            ("--seeds 0", "nothing would be run"),
            ("--seeds 5 --seeds 6", "--seeds is there twice"),
            ("--seed 7 --from 3", "--seed runs one seed"),
            ("--from 18446744073709551615", "there are no 2000 seeds"),
        ] {
            let told = read(line).unwrap_err();
            assert!(told.contains(why), "{line}: {told}");
        }
    }
}
