//! The README claims nothing that no test shows: every test it names exists.

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every `` `path::name` `` of a text.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|quote| quote.rsplit_once("::"));
    named.filter(|(path, _)| path.ends_with(".rs") || path.ends_with(".py")).collect()
}

#[test]
fn every_test_the_readme_names_exists() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let named = named_tests(&readme);
    assert!(named.len() >= 20, "the README names its tests");
    for (path, name) in named {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let is_there = text.contains(&format!("fn {name}(")) || text.contains(&format!("def {name}("));
        assert!(is_there, "README.md names {path}::{name}, which is not there");
    }
}

#[test]
fn every_claim_of_the_readme_names_a_test() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, claims) = readme.split_once("| claim | shown by |").expect("a table of claims");
    let rows: Vec<_> = claims.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 10, "{} claims", rows.len());
    for row in rows {
        assert!(!named_tests(row).is_empty(), "this claim names no test: {row}");
    }
}

#[test]
fn the_two_commands_are_there_to_be_copied() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let commands: Vec<_> =
        readme.lines().filter(|line| line.starts_with("    cargo ")).map(str::trim).collect();
    assert_eq!(commands[..2], ["cargo run --release -- serve --demo", "cargo test --workspace"]);
}
