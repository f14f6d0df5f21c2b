//! House rules that neither compiler nor clippy checks. Each finding names file and line and says what to do.
//!
//! A rule that stands in the way of something better is changed here, in a commit of its own.

#![cfg(test)]

#[path = "tidy/files.rs"]
mod files;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use files::{
    crate_paths, documents, headings, line_of, lines_with, links, module_of, read, resolve, root, rust_files,
    text_files,
};

/// The top-level modules of src/, bottom up, and which others each may use. A module uses only modules above
/// itself in this list, so there is no circle, save for the pairs in [`MUTUAL`]. Unit tests may use anything.
const ARROWS: &[(&str, &str)] = &[
    ("error", ""),
    ("fault", ""),
    ("memory", ""),
    ("copy", ""),
    ("postgres", "error"),
    ("cluster", "error postgres"),
    ("tune", "cluster error postgres"),
    ("source", "batch error memory"),
    ("batch", "copy error partition postgres source"),
    ("partition", "batch copy error memory source"),
    ("route", "error partition postgres"),
    ("index", "error postgres"),
    ("ledger", "batch copy error fault index postgres route source"),
    ("writer", "copy error fault ledger partition postgres route"),
    ("search", "batch error postgres"),
    ("verify", "cluster error index ledger postgres search"),
    ("generate", "error source"),
    ("embedded", "error postgres"),
    ("config", "error index pipeline postgres tune"),
    ("report", "pipeline postgres route"),
    ("pipeline", "batch config copy error index ledger memory partition postgres report route source writer"),
    (
        "cli",
        "batch cluster config embedded error fault generate index ledger pipeline postgres report search source tune \
         verify",
    ),
];

/// Modules that use each other, and why that is borne.
const MUTUAL: &[(&str, &str, &str)] = &[
    ("source", "batch", "a reader that meets a faulty embedding gives the batcher's reason for it"),
    ("batch", "partition", "the batcher hashes a row's channel while it has the value at hand"),
    (
        "config",
        "pipeline",
        "the file holds settings of the pipeline, the pipeline reads sizes as the file does",
    ),
    ("report", "pipeline", "the report is made of the pipeline's counters, the pipeline fills it in"),
];

/// Lines of a file in src/; one that grows beyond holds two things.
const FILE_LINES_MAX: usize = 500;

/// Characters of a line. rustfmt breaks code at 110 and leaves long literals alone.
const LINE_CHARS_MAX: usize = 120;

/// Where crates come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn modules_use_only_the_modules_they_may() {
    let mut found = Findings::new("the arrows between modules are in tests/tidy.rs, ARROWS");
    let position = |module: &str| ARROWS.iter().position(|(name, _)| *name == module);
    for (index, (module, uses)) in ARROWS.iter().enumerate() {
        for used in uses.split_whitespace() {
            let mutual = MUTUAL.iter().any(|(one, other, _)| [*one, *other] == [*module, used]);
            match position(used) {
                None => {
                    found.add("tests/tidy.rs", 1, format!("{module} uses {used}, which is not in ARROWS"));
                }
                Some(below) if below > index && !mutual => {
                    found.add(
                        "tests/tidy.rs",
                        1,
                        format!("{module} uses {used}, which is below it in ARROWS"),
                    );
                }
                Some(_) => {}
            }
        }
    }
    let mut modules = BTreeSet::new();
    let mut arrows = BTreeSet::new();
    for file in rust_files(&["src"]) {
        let Some(module) = module_of(&file.name) else {
            continue;
        };
        modules.insert(module.to_string());
        let Some(allowed) = position(module).map(|index| ARROWS[index].1) else {
            found.add(&file.name, 1, format!("module {module} is not in ARROWS: add it and what it may use"));
            continue;
        };
        for (line, used) in crate_paths(file.code_without_tests()) {
            if used != module && !allowed.split_whitespace().any(|allowed| allowed == used) {
                found.add(
                    &file.name,
                    line,
                    format!("{module} may not use {used}: move what it needs below both"),
                );
            }
            arrows.insert((module.to_string(), used));
        }
    }
    for (module, _) in ARROWS.iter().filter(|(module, _)| !modules.contains(*module)) {
        found.add("tests/tidy.rs", 1, format!("there is no module {module}: take it off ARROWS"));
    }
    for (one, other, _) in MUTUAL {
        for (from, to) in [(one, other), (other, one)] {
            if !arrows.contains(&(from.to_string(), to.to_string())) {
                found.add(
                    "tests/tidy.rs",
                    1,
                    format!("{from} does not use {to} any more: mend MUTUAL and ARROWS"),
                );
            }
        }
    }
    found.none();
}

#[test]
fn only_the_command_line_prints() {
    let mut found =
        Findings::new("stdout is for answers, stderr for people; the printer in src/cli knows who gets what");
    for file in rust_files(&["src"]) {
        if file.name.starts_with("src/cli/") || file.name == "src/main.rs" {
            continue;
        }
        for word in ["println!", "print!", "eprintln!", "eprint!", "io::stdout()", "io::stderr()"] {
            for line in lines_with(&file.code, word) {
                found.add(
                    &file.name,
                    line,
                    format!("{word}: return it, log it with tracing, or tell an observer"),
                );
            }
        }
    }
    found.none();
}

#[test]
fn names_are_quoted_by_one_function_and_values_are_parameters() {
    let mut found = Findings::new("names go into SQL through postgres::quote_ident, values as parameters");
    for file in rust_files(&["src"]).iter().filter(|file| file.name != "src/postgres/quote.rs") {
        for (line, sql) in file.formatted_sql() {
            if sql.contains("\"{") {
                found.add(&file.name, line, "a name between quotes of its own: use quote_ident()".into());
            }
            // A constant of ours, written in capitals, is no value.
            let mut values = sql.match_indices("'{").map(|(at, _)| &sql[at + 2..]);
            if values.any(|rest| !rest.starts_with(|first: char| first == '{' || first.is_ascii_uppercase()))
            {
                let instead =
                    "a value in the text: send it as a parameter ($1), or use quote_literal() in DDL";
                found.add(&file.name, line, instead.into());
            }
        }
    }
    found.none();
}

#[test]
fn files_are_small_and_say_what_they_are_for() {
    let mut found = Findings::new("a reader takes in a file at a time");
    for file in rust_files(&["src"]) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.add(
                &file.name,
                lines,
                format!("{lines} lines, at most {FILE_LINES_MAX}: split it by what it does"),
            );
        }
    }
    for file in rust_files(&["src", "tests", "benches", "examples"]) {
        if !file.text.starts_with("//!") {
            found.add(&file.name, 1, "open it with a //! comment that says what the file is for".into());
        }
        let after_tests =
            file.tests_at().and_then(|at| file.code[at..].find("\n}\n").map(|end| at + end + 3));
        if let Some(end) = after_tests.filter(|end| !file.code[*end..].trim().is_empty()) {
            found.add(&file.name, line_of(&file.code, end), "unit tests come last in a file".into());
        }
    }
    found.none();
}

#[test]
fn no_merge_is_left_half_done() {
    let mut found = Findings::new("what a merge could not decide is decided before it is committed");
    for (name, text) in text_files() {
        for (index, line) in text.lines().enumerate() {
            if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
                found.add(&name, index + 1, "a mark of a merge".into());
            }
        }
    }
    found.none();
}

#[test]
fn lines_fit() {
    let mut found = Findings::new("long lines hide their ends in a review");
    // A dependency with its features can't be broken well.
    let is_code = |name: &str| {
        let by_end = [".rs", ".sql", ".toml"].iter().any(|end| name.ends_with(end));
        (by_end || name.starts_with(".ci/")) && name != "Cargo.toml"
    };
    for (name, text) in text_files().iter().filter(|(name, _)| is_code(name)) {
        for (index, line) in text.lines().enumerate() {
            let chars = line.chars().count();
            if chars > LINE_CHARS_MAX {
                found.add(name, index + 1, format!("{chars} characters, at most {LINE_CHARS_MAX}: break it"));
            }
        }
    }
    found.none();
}

#[test]
fn nothing_is_left_undone_and_no_test_sleeps() {
    let mut found = Findings::new("what is committed works, and tests wait for events");
    for file in rust_files(&["src", "tests", "benches", "examples"]) {
        for (word, instead) in [
            ("todo!", "do it, or return an error"),
            ("unimplemented!", "do it, or return an error"),
            ("dbg!", "remove it"),
            ("#[ignore", "mend the test or remove it"),
        ] {
            for line in lines_with(&file.code, word) {
                found.add(&file.name, line, format!("{word}: {instead}"));
            }
        }
        if !file.name.starts_with("src/") {
            for line in lines_with(&file.code, "sleep(") {
                found.add(
                    &file.name,
                    line,
                    "a sleep guesses: wait for the event itself, with a time limit".into(),
                );
            }
        }
    }
    found.none();
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut found = Findings::new("a link is relative to the file that it is in");
    let documents = documents();
    for (name, text) in &documents {
        for (line, link) in links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { name.clone() } else { resolve(name, path) };
            if fs::metadata(root().join(&target)).is_err() {
                found.add(name, line, format!("{link}: there is no {target}"));
            } else if let Some(text) = documents.get(&target).filter(|_| !anchor.is_empty())
                && !headings(text).contains(anchor)
            {
                found.add(name, line, format!("{link}: {target} has no such heading"));
            }
        }
    }
    found.none();
}

#[test]
fn documents_are_linked() {
    let mut found = Findings::new("what nothing leads to is read by nobody");
    let documents = documents();
    let mut next = vec!["README.md".to_string()];
    let mut reached = BTreeSet::new();
    while let Some(name) = next.pop() {
        for (_, link) in documents.get(&name).map(|text| links(text)).unwrap_or_default() {
            let path = link.split('#').next().unwrap_or_default();
            next.extend(
                Some(resolve(&name, path)).filter(|target| !path.is_empty() && !reached.contains(target)),
            );
        }
        reached.insert(name);
    }
    for (name, _) in
        text_files().iter().filter(|(name, _)| name.starts_with("docs/") && !reached.contains(name))
    {
        found.add(name, 1, "link it from README.md or from a document that README.md leads to".into());
    }
    found.none();
}

#[test]
fn the_changelog_has_a_place_for_the_next_change() {
    const KINDS: &[&str] = &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let mut found = Findings::new("CHANGELOG.md has the form of keepachangelog.com");
    let text = read("CHANGELOG.md");
    if text.lines().find(|line| line.starts_with("## ")) != Some("## [Unreleased]") {
        found.add("CHANGELOG.md", 1, "its first section is ## [Unreleased]: put it back".into());
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("### ").filter(|kind| !KINDS.contains(kind)) {
            found.add("CHANGELOG.md", index + 1, format!("{kind} is none of {}", KINDS.join(", ")));
        }
    }
    found.none();
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let mut found = Findings::new("the repository reads the same everywhere");
    // Put together here, so that this file does not find itself.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let goes_on = |before: char| before.is_alphanumeric() || "._-~}/".contains(before);
    for (name, text) in text_files() {
        for (index, line) in text.lines().enumerate() {
            for path in paths {
                if line.match_indices(path).any(|(at, _)| !line[..at].ends_with(goes_on)) {
                    found.add(&name, index + 1, format!("a path below {path}: write a relative one"));
                }
            }
        }
    }
    for (index, line) in read("Cargo.lock").lines().enumerate() {
        if line.strip_prefix("source = ").is_some_and(|source| source.trim_matches('"') != REGISTRY) {
            found.add("Cargo.lock", index + 1, format!("this crate is not from {REGISTRY}"));
        }
    }
    found.none();
}

#[test]
fn every_dependency_has_its_reason() {
    let mut found = Findings::new("docs/decisions.md says what each dependency is for");
    let decisions = read("docs/decisions.md");
    let mut in_dependencies = false;
    for (index, line) in read("Cargo.toml").lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        } else if in_dependencies
            && let Some((name, _)) = line.split_once(" = ")
            && !decisions.contains(&format!("`{name}`"))
        {
            found.add(
                "Cargo.toml",
                index + 1,
                format!("{name} is not in docs/decisions.md: say why it is here"),
            );
        }
    }
    found.none();
}

/// Rows of tables in docs/architecture.md of the form: `CONSTANT`, what it is, `src/file.rs`, `value`.
#[test]
fn documented_limits_are_those_of_the_code() {
    const DOCUMENT: &str = "docs/architecture.md";
    let mut found = Findings::new("a number in a document is the one in the code, or it misleads");
    for (index, line) in read(DOCUMENT).lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, name, _, file, value, _] = cells[..] else {
            continue;
        };
        if name.is_empty() || !name.chars().all(|char| char.is_ascii_uppercase() || char == '_') {
            continue;
        }
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        let declared = text.lines().find_map(|line| {
            let (declared, value) = line.trim().strip_suffix(';')?.split_once(" = ")?;
            declared.contains(&format!("const {name}:")).then(|| value.to_string())
        });
        match declared {
            Some(declared) if declared == value => {}
            Some(declared) => {
                found.add(DOCUMENT, index + 1, format!("{name} is {declared} in {file}: say so"));
            }
            None => found.add(DOCUMENT, index + 1, format!("{file} has no constant {name}: remove the row")),
        }
    }
    found.none();
}

#[test]
fn the_cluster_of_containers_has_one_major_version() {
    let (dockerfile, compose) = (read("compose/Dockerfile"), read("compose/compose.yaml"));
    let after = |text: &str, from: &str| -> Vec<String> {
        let rest = text.split(from).skip(1);
        rest.map(|rest| rest.split([' ', ';', '\n', '"', ']']).next().unwrap_or_default().to_string())
            .collect()
    };
    let tag = after(&dockerfile, "FROM citusdata/citus:").concat();
    // What the images without a suffix are built on.
    let major = match tag.split_once("-pg") {
        Some((_, major)) => major.to_string(),
        None => match tag.split('.').next() {
            Some("13") => "17".into(),
            Some("14") => "18".into(),
            _ => panic!("compose/Dockerfile: say here which PostgreSQL citusdata/citus:{tag} is built on"),
        },
    };
    assert_eq!(after(&dockerfile, "\"$PG_MAJOR\" != ").concat(), major, "compose/Dockerfile: its own check");
    assert_eq!(
        after(&dockerfile, "install -y --no-install-recommends "),
        [format!("postgresql-{major}-pgvector")]
    );
    let of_tag = |image: &String| *image == tag;
    assert!(
        after(&compose, "image: vecload-citus:").iter().all(of_tag),
        "compose.yaml: images are called {tag}"
    );
    // Until 17 the images keep their data in /var/lib/postgresql/data, and a volume elsewhere would stay empty.
    let mounts = after(&compose, ":/var/lib/postgresql");
    assert!(mounts.len() == 4 && mounts.concat().is_empty() && major == "18", "compose.yaml: {mounts:?}");
}

#[test]
fn the_check_script_can_be_run() {
    let mode = fs::metadata(root().join(".ci/run")).map_or(0, |script| script.permissions().mode());
    assert!(mode & 0o111 == 0o111, ".ci/run:1: make it executable: chmod 755 .ci/run");
}

/// What a rule has found; [`Findings::none`] fails the test with all of it.
struct Findings {
    why: &'static str,
    found: BTreeSet<(String, usize, String)>,
}

impl Findings {
    fn new(why: &'static str) -> Self {
        Self { why, found: BTreeSet::new() }
    }

    fn add(&mut self, file: &str, line: usize, what: String) {
        self.found.insert((file.to_string(), line, what));
    }

    fn none(self) {
        let lines: Vec<String> =
            self.found.iter().map(|(file, line, what)| format!("{file}:{line}: {what}")).collect();
        assert!(lines.is_empty(), "{}\n\n{}\n", self.why, lines.join("\n"));
    }
}
