//! House rules that neither compiler nor clippy checks. Each finding names file and line and says what to do.
//!
//! The rules are explained in CONTRIBUTING.md. A rule that stands in the way is changed here, in a commit of its own.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The top-level modules of src/, bottom up, and which others each may use. A module uses only modules above
/// itself in this list, so there is no circle, save for the pairs in [`MUTUAL`]. Unit tests may use anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("memory", &[]),
    ("copy", &[]),
    ("postgres", &["error"]),
    ("source", &["batch", "error"]),
    ("batch", &["copy", "error", "partition", "postgres", "source"]),
    ("partition", &["batch", "copy", "error", "memory"]),
    ("route", &["postgres"]),
    ("ledger", &["batch", "copy", "error", "postgres", "source"]),
    ("writer", &["copy", "error", "ledger", "postgres", "route"]),
    ("index", &["error", "postgres"]),
    ("embedded", &["error"]),
    ("report", &["error", "postgres", "route"]),
    ("config", &["error", "postgres"]),
    (
        "pipeline",
        &[
            "batch",
            "config",
            "copy",
            "error",
            "index",
            "ledger",
            "memory",
            "partition",
            "postgres",
            "report",
            "route",
            "source",
            "writer",
        ],
    ),
    (
        "cli",
        &[
            "config", "embedded", "error", "index", "ledger", "pipeline", "postgres", "report", "search",
            "source", "target",
        ],
    ),
];

/// Modules that use each other, and why that is borne.
const MUTUAL: &[(&str, &str, &str)] = &[
    (
        "source",
        "batch",
        "a reader meets faulty embeddings and says so with the batcher's reject reasons",
    ),
    (
        "batch",
        "partition",
        "the batcher hashes a row's channel while it has the value at hand",
    ),
];

/// Lines of a file in src/; where one grows beyond, there are two things in it.
const FILE_LINES_MAX: usize = 500;

/// Characters of a line. rustfmt breaks code at 110 and leaves long literals alone.
const LINE_CHARS_MAX: usize = 120;

/// What the crate may be made of: one public registry.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn modules_use_only_the_modules_they_may() {
    let mut found = Findings::new("the arrows between modules are in tests/tidy.rs, ARROWS");
    for (index, (module, uses)) in ARROWS.iter().enumerate() {
        let above: Vec<&str> = ARROWS[..index].iter().map(|(name, _)| *name).collect();
        for used in uses.iter().filter(|used| !above.contains(used)) {
            let mutual = MUTUAL
                .iter()
                .any(|(one, other, _)| [*one, *other] == [*module, *used]);
            let below = ARROWS.iter().any(|(name, _)| name == used);
            if below && !mutual {
                found.add(
                    "tests/tidy.rs",
                    0,
                    format!("{module} uses {used}, which is below it in ARROWS"),
                );
            }
        }
    }
    let mut modules = BTreeSet::new();
    for file in rust_files(&["src"]) {
        let Some(module) = module_of(&file.name) else {
            continue;
        };
        modules.insert(module.to_string());
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
            found.add(
                &file.name,
                1,
                format!("module {module} is not in ARROWS: add it and what it may use"),
            );
            continue;
        };
        for (line, used) in crate_paths(file.code_without_tests()) {
            if used != module && !allowed.contains(&used.as_str()) {
                found.add(
                    &file.name,
                    line,
                    format!("{module} may not use {used}: move what it needs below both"),
                );
            }
        }
    }
    for (one, other, _) in MUTUAL {
        let uses = |from: &str, to: &str| {
            ARROWS
                .iter()
                .any(|(name, uses)| *name == from && uses.contains(&to))
        };
        if !uses(one, other) || !uses(other, one) {
            found.add(
                "tests/tidy.rs",
                0,
                format!("{one} and {other} are not mutual any more: take them off MUTUAL"),
            );
        }
    }
    found.none();
}

#[test]
fn only_the_command_line_prints() {
    let mut found = Findings::new(
        "stdout is data and stderr is for people; the printer in src/cli decides who gets what",
    );
    for file in rust_files(&["src"]) {
        if file.name.starts_with("src/cli/") || file.name == "src/main.rs" {
            continue;
        }
        for word in [
            "println!",
            "print!",
            "eprintln!",
            "eprint!",
            "io::stdout()",
            "io::stderr()",
        ] {
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
fn identifiers_are_quoted_by_one_function_and_values_are_parameters() {
    let mut found = Findings::new("names go into SQL through postgres::quote_ident, values as parameters");
    for file in rust_files(&["src"])
        .iter()
        .filter(|file| file.name != "src/postgres/quote.rs")
    {
        for (line, literal) in file.literals.iter().filter(|(_, literal)| is_sql(literal)) {
            if literal.contains("\"{") {
                found.add(
                    &file.name,
                    *line,
                    "a name between quotes of its own: use quote_ident()".into(),
                );
            }
            let value = |(at, _): (usize, &str)| {
                !literal[at + 2..].starts_with(|next: char| next.is_ascii_uppercase())
            };
            if literal.match_indices("'{").any(value) {
                found.add(
                    &file.name,
                    *line,
                    "a value in the text: send it as a parameter ($1)".into(),
                );
            }
        }
        for line in lines_with(&file.text, r#".replace('"', "\"\"")"#) {
            found.add(
                &file.name,
                line,
                "quotes are doubled in src/postgres/quote.rs only".into(),
            );
        }
    }
    found.none();
}

#[test]
fn files_are_small_and_say_what_they_are() {
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
            found.add(
                &file.name,
                1,
                "open it with a //! comment that says what the file is for".into(),
            );
        }
        if let Some(tests) = file.code.find("#[cfg(test)]\nmod ")
            && let Some(end) = file.code[tests..].find("\n}\n").map(|end| tests + end + 3)
            && !file.code[end..].trim().is_empty()
        {
            found.add(
                &file.name,
                line_of(&file.code, end),
                "tests come last in a file".into(),
            );
        }
    }
    found.none();
}

#[test]
fn lines_fit() {
    let mut found = Findings::new("long lines hide their ends in reviews");
    let code = |name: &str| {
        [".rs", ".sql", ".toml"].iter().any(|end| name.ends_with(end)) || name.starts_with(".ci/")
    };
    for (name, text) in text_files().iter().filter(|(name, _)| code(name)) {
        for (index, line) in text.lines().enumerate() {
            let chars = line.chars().count();
            if chars > LINE_CHARS_MAX {
                found.add(
                    name,
                    index + 1,
                    format!("{chars} characters, at most {LINE_CHARS_MAX}: break it"),
                );
            }
        }
    }
    found.none();
}

#[test]
fn nothing_is_left_undone_or_asleep() {
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
        let is_test = file.name.starts_with("tests/") || file.name.starts_with("benches/");
        for line in lines_with(&file.code, "sleep(").into_iter().filter(|_| is_test) {
            found.add(
                &file.name,
                line,
                "sleeping guesses: wait for what the test waits for, with a time limit".into(),
            );
        }
    }
    found.none();
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut found = Findings::new("links are relative to the file they are in");
    let documents = documents();
    for (name, text) in &documents {
        for (line, link) in links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                name.clone()
            } else {
                resolve(name, path)
            };
            if fs::metadata(root().join(&target)).is_err() {
                found.add(name, line, format!("{link}: there is no {target}"));
            } else if !anchor.is_empty()
                && documents
                    .get(&target)
                    .is_some_and(|text| !headings(text).contains(anchor))
            {
                found.add(
                    name,
                    line,
                    format!("{link}: {target} has no heading of that name"),
                );
            }
        }
    }
    found.none();
}

#[test]
fn documents_are_linked() {
    let mut found = Findings::new("what nothing leads to is read by nobody");
    let documents = documents();
    let mut reached = BTreeSet::from(["README.md".to_string(), "CONTRIBUTING.md".to_string()]);
    let mut next: Vec<String> = reached.iter().cloned().collect();
    while let Some(name) = next.pop() {
        for (_, link) in documents.get(&name).map(|text| links(text)).unwrap_or_default() {
            let target = resolve(&name, link.split('#').next().unwrap_or(&link));
            if reached.insert(target.clone()) {
                next.push(target);
            }
        }
    }
    for (name, _) in text_files().iter().filter(|(name, _)| name.starts_with("docs/")) {
        if !reached.contains(name) {
            found.add(
                name,
                1,
                "link it from README.md or from a document that README.md leads to".into(),
            );
        }
    }
    found.none();
}

#[test]
fn the_changelog_has_a_place_for_the_next_change() {
    let mut found = Findings::new("CHANGELOG.md is in the form of keepachangelog.com");
    let text = read("CHANGELOG.md");
    let releases: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
    if !releases
        .first()
        .is_some_and(|first| first.trim_start_matches("## ").trim_matches(['[', ']']) == "Unreleased")
    {
        found.add("CHANGELOG.md", 1, "the first section is ## [Unreleased]".into());
    }
    for (index, line) in text.lines().enumerate() {
        let Some(kind) = line.strip_prefix("### ") else {
            continue;
        };
        if !["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"].contains(&kind) {
            found.add(
                "CHANGELOG.md",
                index + 1,
                format!("{kind} is none of the six kinds of change"),
            );
        }
    }
    found.none();
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let mut found = Findings::new("the repository reads the same everywhere");
    // Put together here, so that this file does not find itself.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    for (name, text) in text_files() {
        for (index, line) in text.lines().enumerate() {
            for path in paths {
                let starts_there = |(at, _): (usize, &str)| {
                    !line[..at]
                        .ends_with(|before: char| before.is_alphanumeric() || "._-~}/".contains(before))
                };
                if line.match_indices(path).any(starts_there) {
                    found.add(
                        &name,
                        index + 1,
                        format!("a path below {path}: write a relative one"),
                    );
                }
            }
        }
    }
    for (index, line) in read("Cargo.lock").lines().enumerate() {
        if line
            .strip_prefix("source = ")
            .is_some_and(|source| source.trim_matches('"') != REGISTRY)
        {
            found.add(
                "Cargo.lock",
                index + 1,
                format!("a crate from elsewhere than {REGISTRY}"),
            );
        }
    }
    found.none();
}

#[test]
fn every_dependency_has_its_reason() {
    let mut found = Findings::new("docs/decisions.md says why each dependency was chosen");
    let decisions = read("docs/decisions.md");
    let mut section = "";
    for (index, line) in read("Cargo.toml").lines().enumerate() {
        if line.starts_with('[') {
            section = if line.trim_end_matches(']').ends_with("dependencies") {
                "dependencies"
            } else {
                ""
            };
        } else if section == "dependencies"
            && let Some((name, _)) = line.split_once(" = ")
            && !decisions.contains(&format!("`{name}`"))
        {
            found.add(
                "Cargo.toml",
                index + 1,
                format!("{name} is not in docs/decisions.md: say what it is for"),
            );
        }
    }
    found.none();
}

/// Rows of the table in docs/architecture.md: `| NAME | … | src/file.rs | value |`, cells in backticks.
#[test]
fn documented_limits_are_those_of_the_code() {
    const DOCUMENT: &str = "docs/architecture.md";
    let mut found = Findings::new("a number in a document is the one in the code, or it misleads");
    for (index, line) in read(DOCUMENT).lines().enumerate() {
        let cells: Vec<&str> = line
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let (Some(name), Some(file), Some(value)) = (cells.get(1), cells.get(3), cells.get(4)) else {
            continue;
        };
        if name.is_empty() || !name.chars().all(|char| char.is_ascii_uppercase() || char == '_') {
            continue;
        }
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        let constant = text.lines().find_map(|line| {
            let (declared, value) = line.trim().strip_suffix(';')?.split_once(" = ")?;
            declared
                .contains(&format!("const {name}:"))
                .then(|| value.to_string())
        });
        match constant {
            Some(found) if found == *value => {}
            Some(is) => found.add(
                DOCUMENT,
                index + 1,
                format!("{name} is {is} in {file}, not {value}"),
            ),
            None => found.add(DOCUMENT, index + 1, format!("{file} has no constant {name}")),
        }
    }
    found.none();
}

#[test]
fn the_check_script_can_be_run() {
    let mode = fs::metadata(root().join(".ci/run"))
        .expect(".ci/run: it checks a change on a new machine")
        .permissions();
    assert!(
        mode.mode() & 0o111 == 0o111,
        ".ci/run:1: make it executable: chmod 755 .ci/run"
    );
}

/// What a rule has found; [`Findings::none`] fails the test with all of it.
struct Findings {
    why: &'static str,
    found: Vec<String>,
}

impl Findings {
    fn new(why: &'static str) -> Self {
        Self {
            why,
            found: Vec::new(),
        }
    }

    fn add(&mut self, file: &str, line: usize, what: String) {
        self.found.push(format!("{file}:{}: {what}", line.max(1)));
    }

    fn none(mut self) {
        self.found.sort();
        self.found.dedup();
        assert!(
            self.found.is_empty(),
            "\n{}\n({})\n",
            self.found.join("\n"),
            self.why
        );
    }
}

/// A Rust file, its code apart from its comments and literals.
struct RustFile {
    name: String,
    text: String,
    /// The text with comments and the insides of literals blanked; lines are where they were.
    code: String,
    /// String literals as written, with their lines.
    literals: Vec<(usize, String)>,
}

impl RustFile {
    fn new(name: String, text: String) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut code = String::with_capacity(text.len());
        let mut literals = Vec::new();
        let mut at = 0;
        while at < chars.len() {
            let end = match (chars[at], chars.get(at + 1)) {
                ('/', Some('/')) => at + chars[at..].iter().take_while(|char| **char != '\n').count(),
                ('/', Some('*')) => end_of(&chars, at + 2, "*/"),
                ('"', _) => {
                    let end = string_end(&chars, at);
                    let line = 1 + code.matches('\n').count();
                    literals.push((line, chars[at + 1..end - 1].iter().collect()));
                    end
                }
                ('\'', Some('\\')) => end_of(&chars, at + 3, "'"),
                ('\'', _) if chars.get(at + 2) == Some(&'\'') => at + 3,
                (char, _) => {
                    code.push(char);
                    at += 1;
                    continue;
                }
            };
            code.extend(
                chars[at..end]
                    .iter()
                    .map(|char| if *char == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
        Self {
            name,
            text,
            code,
            literals,
        }
    }

    fn code_without_tests(&self) -> &str {
        let tests = self.code.find("#[cfg(test)]\nmod ").unwrap_or(self.code.len());
        &self.code[..tests]
    }
}

/// The position behind `closing`, looked for from `from`.
fn end_of(chars: &[char], from: usize, closing: &str) -> usize {
    let closing: Vec<char> = closing.chars().collect();
    let found = (from..chars.len()).find(|at| chars[*at..].starts_with(&closing));
    found.map_or(chars.len(), |at| at + closing.len())
}

/// The position behind a string literal whose quote is at `start`.
fn string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[..start]
        .iter()
        .rev()
        .take_while(|char| **char == '#')
        .count();
    let before = chars[..start - hashes].iter().rev();
    let word: String = before
        .take_while(|char| char.is_alphanumeric() || **char == '_')
        .collect();
    if ["r", "rb", "rc"].contains(&word.as_str()) {
        return end_of(chars, start + 1, &format!("\"{}", "#".repeat(hashes)));
    }
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Whether a literal is a statement rather than a message: it starts as one, and messages hold no quotes like these.
fn is_sql(literal: &str) -> bool {
    const VERBS: &[&str] = &[
        "alter", "analyze", "comment", "copy", "create", "delete", "drop", "explain", "grant", "insert",
        "lock", "reindex", "select", "set", "truncate", "update", "vacuum", "with",
    ];
    let first = literal
        .trim_start()
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    VERBS.contains(&first.as_str())
}

/// Top-level modules that a text names after `crate::`, with their lines.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|char| char.is_alphanumeric() || *char == '_')
            .collect()
    };
    let mut paths = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let line = line_of(code, at);
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            paths.push((line, word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut starts = vec![0];
        for (index, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => starts.push(index + 1),
                _ => {}
            }
        }
        paths.extend(starts.into_iter().map(|start| (line, word(&group[start..]))));
    }
    // Items of the crate's root and the comma before a closing brace are no modules.
    paths.retain(|(_, name)| name.starts_with(|first: char| first.is_lowercase()));
    paths
}

/// The top-level module of a file in src/; none for the two roots.
fn module_of(name: &str) -> Option<&str> {
    let module = name.strip_prefix("src/")?.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    (module != "lib" && module != "main").then_some(module)
}

/// Lines that hold a word which is not the end of a longer one.
fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let starts_there = |at: usize| {
        let before = code[..at].chars().next_back();
        !word.starts_with(char::is_alphabetic)
            || !before.is_some_and(|char| char.is_alphanumeric() || char == '_')
    };
    code.match_indices(word)
        .filter(|(at, _)| starts_there(*at))
        .map(|(at, _)| line_of(code, at))
        .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}:1: {error}"))
}

fn rust_files(folders: &[&str]) -> Vec<RustFile> {
    let files = text_files().into_iter();
    let wanted = |name: &str| {
        folders
            .iter()
            .any(|folder| name.starts_with(&format!("{folder}/")))
    };
    files
        .filter(|(name, _)| name.ends_with(".rs") && wanted(name))
        .map(|(name, text)| RustFile::new(name, text))
        .collect()
}

/// Markdown files by name.
fn documents() -> BTreeMap<String, String> {
    text_files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".md"))
        .collect()
}

/// All files of the repository that are text, by name relative to its root.
fn text_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository can be listed") {
            let entry = entry.expect("an entry of the repository can be read");
            let name = folder.join(entry.file_name());
            let kind = entry.file_type().expect("an entry has a type");
            // What .gitignore leaves out, and git's own.
            if ["target", ".vecload", ".git"]
                .iter()
                .any(|left_out| name == Path::new(left_out))
            {
                continue;
            }
            if kind.is_dir() {
                folders.push(name);
            } else if kind.is_file()
                && let Some(text) = fs::read(entry.path())
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
            {
                files.push((name.to_str().expect("names are UTF-8").to_string(), text));
            }
        }
    }
    files.sort();
    files
}

/// Links of a document with their lines, those in code left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        for part in prose.split("](").skip(1) {
            let link = part.split([')', ' ']).next().unwrap_or_default();
            links.push((index + 1, link.to_string()));
        }
        if let Some((label, link)) = prose.split_once("]: ")
            && label.starts_with('[')
        {
            links.push((index + 1, link.trim().to_string()));
        }
    }
    links
}

/// The anchors that a document's headings make.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let kept = |char: &char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_');
    let anchor = |title: &str| {
        title
            .to_lowercase()
            .chars()
            .filter(kept)
            .collect::<String>()
            .replace(' ', "-")
    };
    titles.map(anchor).collect()
}

/// `link` as seen from the document `from`, relative to the repository.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}
