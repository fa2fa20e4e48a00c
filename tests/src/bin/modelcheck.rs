//! Searches every behaviour of the pair within bounds; see [`USAGE`].

use std::{
    io::{self, Write},
    process::ExitCode,
};

use vmsync_tests::model::{Bounds, Setup, Tally, search};

const USAGE: &str = "\
Searches every behaviour of the pair within bounds, breadth first, for one that breaks a promise.

usage: modelcheck [--crashes N] [--delays N] [--acts N] [--epochs N] [--depth N] [--states N]

  --crashes N   ends of processes and losses of power (1)
  --delays N    heartbeats that arrive late (1)
  --acts N      acts of operators (1)
  --epochs N    failovers and failbacks that are followed (2)
  --depth N     steps from the beginning (no limit)
  --states N    states of each pair (1000000; about 400 bytes each)
  --help        print this

Ends with 0 when every promise held, with 1 and the shortest way to it when one was broken, with 2
when it was asked for something else.";

/// Reads the arguments; `None`: help is asked for; an error is one line for people.
fn asked(mut args: impl Iterator<Item = String>) -> Result<Option<Bounds>, String> {
    let mut bounds = Bounds::of(1, 1, 1, 2, 1_000_000);
    while let Some(arg) = args.next() {
        if arg == "--help" || arg == "-h" {
            return Ok(None);
        }
        let mut number = |most: u32| {
            let text = args.next().ok_or(format!("{arg}: a number is missing"))?;
            let number = text.parse::<u32>().ok().filter(|n| *n <= most);
            number.ok_or(format!(
                "{arg}: {text} is not a whole number from 0 to {most}"
            ))
        };
        let small = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
        match arg.as_str() {
            "--crashes" => bounds.crashes = small(number(9)?),
            "--delays" => bounds.delays = small(number(9)?),
            "--acts" => bounds.acts = small(number(9)?),
            "--epochs" => bounds.epoch = small(number(99)?),
            "--depth" => bounds.depth = number(u32::MAX)?,
            "--states" => bounds.states = usize::try_from(number(u32::MAX)?).unwrap_or(usize::MAX),
            other => return Err(format!("{other}: there is no such argument")),
        }
    }
    Ok(Some(bounds))
}

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let asked = asked(std::env::args().skip(1));
    let setups = asked.and_then(|bounds| bounds.map(Setup::all).transpose());
    let setups = match setups {
        Ok(Some(setups)) => setups,
        Ok(None) => {
            writeln!(out, "{USAGE}")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(why) => {
            writeln!(io::stderr(), "modelcheck: {why}; see --help")?;
            return Ok(ExitCode::from(2));
        }
    };
    let (mut tally, mut states) = (Tally::default(), 0);
    for setup in &setups {
        let found = search(setup);
        writeln!(out, "{found}")?;
        if found.broken.is_some() {
            return Ok(ExitCode::FAILURE);
        }
        tally.add(&found.tally);
        states += found.states;
    }
    for (what, times) in &tally.happened {
        writeln!(out, "{times:>10} {what}")?;
    }
    writeln!(
        out,
        "{states} states of {} pairs: every promise held",
        setups.len()
    )?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_and_anything_else_is_named() {
        let read = |line: &str| asked(line.split_whitespace().map(str::to_owned));
        let bounds = read("--crashes 2 --depth 7").unwrap().unwrap();
        assert_eq!((bounds.crashes, bounds.depth, bounds.acts), (2, 7, 1));
        assert!(read("--help").unwrap().is_none());
        for (line, why) in [
            ("--crashes 10", "10 is not a whole number from 0 to 9"),
            ("--depth", "--depth: a number is missing"),
            ("7", "7: there is no such argument"),
        ] {
            assert!(read(line).unwrap_err().contains(why), "{line}");
        }
    }
}
