//! Runs the simulation of the pair: `simulate [--seeds N] [--from S]`, or `--seed S` for one with its
//! trace. Prints what happened, and each seed that failed; ends with 1 if one did.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use vmsync::clock;
use vmsync_tests::sim::{self, Failure};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (mut seeds, mut from, mut one) = (2_000, 0, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number = args.next().ok_or("a number after it is missing");
        let number: u64 = number?.parse()?;
        match arg.as_str() {
            "--seeds" => seeds = number,
            "--from" => from = number,
            "--seed" => one = Some(number),
            other => return Err(format!("what is {other}?").into()),
        }
    }
    let mut out = io::stdout().lock();
    if let Some(seed) = one {
        let (trace, why) = sim::told(seed);
        for line in trace {
            writeln!(out, "{line}")?;
        }
        writeln!(
            out,
            "seed {seed}: {}",
            why.as_deref().unwrap_or("ends well")
        )?;
        return Ok(if why.is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        });
    }
    let begun = clock::now().mono;
    let (total, failures) = sim::run_all(from..from + seeds, None);
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
        "{seeds} seeds from {from}: {failed} failed, {took:.1} s"
    )?;
    Ok(if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
