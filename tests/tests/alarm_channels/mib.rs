//! The MIB, read by two programs that share no code: libsmi's `smilint`, which knows the rules, and net-snmp.
//!
//! The modules that it imports are in `tests/data/mibs`, cut down to what is imported.

use std::{path::Path, time::Duration};

use vmsync_tests::pair::{Ended, installed, run};

/// As low as its complaints go.
const EVERYTHING: &str = "6";

async fn with_modules(program: &str, args: &[&str]) -> Ended {
    installed(program);
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mibs");
    let path = format!("SMIPATH={}", modules.display());
    let all = [&[path.as_str(), program], args].concat();
    run("env", &all, Duration::from_secs(20)).await
}

fn mib() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mib/VMSYNC-MIB.txt");
    file.display().to_string()
}

#[tokio::test]
async fn nothing_is_said_against_the_mib() {
    let said = with_modules("smilint", &["-s", "-l", EVERYTHING, &mib()]).await;
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    // It would say something.
    let text = std::fs::read_to_string(mib()).unwrap();
    let folder = vmsync_tests::pair::Folder::new();
    let wrong = folder.path().join("VMSYNC-MIB");
    std::fs::write(
        &wrong,
        text.replace("SYNTAX Unsigned32", "SYNTAX Unsigned33"),
    )
    .unwrap();
    let wrong = wrong.display().to_string();
    let said = with_modules("smilint", &["-s", "-l", EVERYTHING, &wrong]).await;
    assert!(said.err.contains("Unsigned33"), "{said:?}");
}

#[tokio::test]
async fn the_mib_gives_every_name_its_number() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mibs");
    let dirs = format!(
        "{}:{}",
        modules.display(),
        mib().replace("/VMSYNC-MIB.txt", "")
    );
    let said = with_modules(
        "snmptranslate",
        &["-M", &dirs, "-m", "VMSYNC-MIB", "-PW", "-Tz"],
    )
    .await
    .well();
    // Under 1.3.6.1.4.1.32473.1: notifications under 0, objects under 1 (docs/alarms.md).
    for (name, number) in [
        ("vmsyncAlarmRaised", "0.1"),
        ("vmsyncAlarmCleared", "0.2"),
        ("vmsyncAlarmTest", "0.3"),
        ("vmsyncAlarmNumber", "1.1"),
        ("vmsyncAlarmCode", "1.2"),
        ("vmsyncAlarmSubject", "1.3"),
        ("vmsyncAlarmText", "1.4"),
        ("vmsyncAlarmSeverity", "1.5"),
        ("vmsyncAlarmSince", "1.6"),
        ("vmsyncAlarmAt", "1.7"),
        ("vmsyncNode", "1.8"),
    ] {
        let line = format!("\"{name}\"\t\t\t\"1.3.6.1.4.1.32473.1.{number}\"");
        assert!(said.out.lines().any(|l| l == line), "{line}: {}", said.out);
    }
    let complaints: Vec<_> = said
        .err
        .lines()
        // The second is said by the first of these programs that ever runs on a machine.
        .filter(|l| !l.contains("parsed and ignored") && !l.starts_with("Created directory:"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
