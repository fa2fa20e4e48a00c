//! Call flows with errors: each file in `tests/bad` ends in comments that give every error, as `#! line:column: message`.

use std::{fs, path::Path};

use vmsync_callflows::check;

#[test]
fn every_error_is_told_with_its_place() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let expected: Vec<&str> = source.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let found: Vec<String> = check(source.as_bytes(), file).err().unwrap_or_default().iter()
            .map(|e| format!("{}:{}: {}", e.line, e.column, e.message)).collect();
        assert_eq!(found, expected, "{file}; found:\n{}", found.iter().map(|f| format!("#! {f}")).collect::<Vec<_>>().join("\n"));
        assert!(!expected.is_empty(), "{file} has no errors");
        seen += 1;
    }
    assert!(seen >= 4);
}
