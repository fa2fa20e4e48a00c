//! Call flows with errors: each file in `tests/bad` ends in comments that give every error, as
//! `#! line:column: message`. `UPDATE_BAD=1 cargo test` writes down what is found now.

use std::{fmt::Write as _, fs, path::Path};

use vmsync_callflows::check;

/// R-CF-4.
#[test]
fn every_error_is_told_with_its_place() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let (mut seen, mut wrong) = (0, String::new());
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let flow: String = source.lines().filter(|line| !line.starts_with("#! ")).fold(
            String::new(),
            |mut all, line| {
                let _ = writeln!(all, "{line}");
                all
            },
        );
        let mut written = flow.clone();
        for e in check(flow.as_bytes(), file).err().unwrap_or_default() {
            let _ = writeln!(written, "#! {}:{}: {}", e.line, e.column, e.message);
        }
        if std::env::var_os("UPDATE_BAD").is_some() {
            fs::write(&path, &written).unwrap();
        } else if written != source || written == flow {
            let _ = writeln!(
                wrong,
                "{file} should end in its errors:\n{}",
                &written[flow.len()..]
            );
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(seen >= 6);
}
