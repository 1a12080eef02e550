//! SPEC.md says what the code does: its generated blocks equal what the message table renders.

use std::fs;
use std::path::Path;

use tickcast_protocol::spec;

const BLESS: &str = "TICKCAST_BLESS=1 cargo test -p tickcast-protocol --test spec";

/// Replaces what stands between each marker and its end by what the table says now.
fn regenerate(spec_text: &str, golden: &Path) -> String {
    let mut out = String::new();
    let mut rest = spec_text;
    while let Some((before, after)) = rest.split_once("<!-- generated: ") {
        let (name, after) = after.split_once(" -->").expect("a marker ends on its line");
        let (_, after) = after.split_once("<!-- end -->").expect("every generated block has an end");
        let block = match name.strip_prefix("example ") {
            Some(frame) => {
                let bytes =
                    fs::read(golden.join(format!("{frame}.bin"))).expect("the example is a golden file");
                spec::example(&bytes).expect("golden files are sound")
            }
            None => spec::block(name).unwrap_or_else(|| panic!("spec.rs renders no block called `{name}`")),
        };
        out.push_str(&format!("{before}<!-- generated: {name} -->\n\n{}\n\n<!-- end -->", block.trim_end()));
        rest = after;
    }
    out + rest
}

#[test]
fn generated_blocks_are_what_the_message_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("SPEC.md");
    let written = fs::read_to_string(&path).expect("SPEC.md is there");
    let expected = regenerate(&written, &root.join("tests/golden"));
    if written == expected {
        return;
    }
    if std::env::var_os("TICKCAST_BLESS").is_some() {
        fs::write(&path, expected).expect("SPEC.md can be written");
        return;
    }
    let differs = written.lines().zip(expected.lines()).enumerate().find(|(_, (old, new))| old != new);
    let (line, (old, new)) = differs.unwrap_or((written.lines().count(), ("", "(more lines)")));
    panic!(
        "SPEC.md differs from the message table in line {}:\n  is        {old}\n  should be {new}\nRun `{BLESS}`.",
        line + 1
    );
}

#[test]
fn every_block_is_in_the_specification() {
    let written = include_str!("../SPEC.md");
    for name in ["types", "control", "data", "records", "names", "error-codes", "close-codes", "limits"] {
        assert!(written.contains(&format!("<!-- generated: {name} -->")), "SPEC.md has no block `{name}`");
    }
}
