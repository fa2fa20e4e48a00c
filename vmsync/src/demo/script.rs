//! Telling the story: prints each step with its check and its time, and can kill a node in the
//! middle of any of them.

use std::{io::Write, time::Duration};

use super::{Demo, DemoOptions, story};

/// The story must be told within this time.
const LIMIT: Duration = Duration::from_mins(1);
/// With a node killed in between, restarts and back-offs are added.
const LIMIT_WITH_KILL: Duration = Duration::from_mins(2);
/// How far into a step its node is killed.
const KILL_AFTER: Duration = Duration::from_millis(30);

/// Tells it from beginning to end. `Err` names the step that failed.
pub(crate) async fn run(
    demo: &mut Demo,
    options: &DemoOptions,
    out: &mut (impl Write + Send),
) -> Result<(), String> {
    let limit = if options.kill.is_some() {
        LIMIT_WITH_KILL
    } else {
        LIMIT
    };
    let told = tokio::select! {
        biased;
        signal = crate::serve::stop_signal() => Err(signal.map_or_else(|e| e.to_string(), |()| "stopped by a signal".to_owned())),
        told = tokio::time::timeout(limit, tell(demo, options, out)) => {
            told.unwrap_or_else(|_| Err(format!("not done within {} s", limit.as_secs())))
        }
    };
    let stopped = demo.stop().await;
    let result = told.and(stopped);
    let closing = match &result {
        Ok(()) => "\nThe whole story held. Both nodes stopped cleanly.".to_owned(),
        Err(_) => format!(
            "\nThe story did not hold. Logs and data are kept in {}",
            demo.dir.display()
        ),
    };
    writeln!(out, "{closing}").map_err(|e| e.to_string())?;
    if result.is_ok() && options.dir.is_none() {
        std::fs::remove_dir_all(&demo.dir).map_err(|e| format!("{}: {e}", demo.dir.display()))?;
    }
    result
}

async fn tell(
    demo: &mut Demo,
    options: &DemoOptions,
    out: &mut (impl Write + Send),
) -> Result<(), String> {
    let begun = tokio::time::Instant::now();
    let mut story = story::Story::default();
    for (number, step) in story::STEPS.iter().enumerate() {
        let number = number + 1;
        let started = tokio::time::Instant::now();
        let kill = options.kill.as_ref().filter(|(at, _)| *at == number);
        let checked = match kill {
            None => story.step(demo, *step).await,
            Some((_, node)) => disturbed(&mut story, demo, *step, node).await,
        };
        let took = started.elapsed().as_secs_f64();
        let (mark, told) = match &checked {
            Ok(told) => ("ok", told.clone()),
            Err(why) => ("FAILED", why.clone()),
        };
        let note = kill.map_or(String::new(), |(_, node)| {
            format!(" [{node} killed meanwhile]")
        });
        writeln!(
            out,
            "{number:>2}. {mark:<6} {took:>5.2} s  {}{note}",
            step.title()
        )
        .and_then(|()| writeln!(out, "                    {told}"))
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())?;
        checked.map_err(|why| format!("step {number} ({}): {why}", step.title()))?;
    }
    writeln!(
        out,
        "\n{} steps in {:.1} s",
        story::STEPS.len(),
        begun.elapsed().as_secs_f64()
    )
    .map_err(|e| e.to_string())
}

/// Runs a step while `node` is killed in the middle of it and started again; then runs it once
/// more, since a step's checks must hold afterwards as well as if nothing had happened.
async fn disturbed(
    story: &mut story::Story,
    demo: &mut Demo,
    step: story::Step,
    node: &str,
) -> Result<String, String> {
    let index = demo
        .file
        .nodes
        .iter()
        .position(|n| n.id == node)
        .ok_or_else(|| format!("--kill names {node}, which is no node of the demo"))?;
    if !demo.is_running(index) {
        return story.step(demo, step).await;
    }
    // Whatever the step got to before the kill must be harmless to repeat.
    let _ = tokio::time::timeout(KILL_AFTER, story.step(demo, step)).await;
    if demo.is_running(index) {
        demo.kill(index).await?;
        if !story::wants_down(step, index) {
            demo.start(index)?;
        }
    }
    story.disturbed_node(index);
    story.step(demo, step).await
}
