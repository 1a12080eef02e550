//! SPEC.md is enough: a reader written from it alone, in another language, reads every golden file.

use std::path::Path;
use std::process::Command;

#[test]
fn a_reader_written_from_the_specification_agrees() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let output = Command::new("python3")
        .arg(tests.join("spec_reader.py"))
        .arg("golden")
        .arg(tests.join("golden"))
        .output()
        .unwrap_or_else(|error| panic!("python3 cannot be run ({error}): apt-get install python3"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
