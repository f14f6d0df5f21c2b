//! The repository's files as the rules look at them: Rust code apart from its comments and literals, links and
//! headings of documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A Rust file, its code apart from its comments and literals.
pub(crate) struct RustFile {
    /// Path from the repository's root.
    pub(crate) name: String,
    /// The file.
    pub(crate) text: String,
    /// The text with comments and literals blanked; lines are where they were.
    pub(crate) code: String,
    /// Strings that are formatted: position in `code`, and the string as written.
    formats: Vec<(usize, String)>,
}

impl RustFile {
    fn new(name: String, text: String) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut code = String::with_capacity(text.len());
        let mut formats = Vec::new();
        let mut at = 0;
        while at < chars.len() {
            let end = match (chars[at], chars.get(at + 1)) {
                ('/', Some('/')) => end_of(&chars, at, "\n") - 1,
                ('/', Some('*')) => end_of(&chars, at + 2, "*/"),
                ('"', _) => {
                    let end = string_end(&chars, at);
                    if code.trim_end().ends_with("format!(") {
                        formats.push((code.len(), chars[at + 1..end - 1].iter().collect()));
                    }
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
            code.extend(chars[at..end].iter().map(|char| if *char == '\n' { '\n' } else { ' ' }));
            at = end;
        }
        Self { name, text, code, formats }
    }

    /// The code before the unit tests, which stand last.
    pub(crate) fn code_without_tests(&self) -> &str {
        &self.code[..self.tests_at().unwrap_or(self.code.len())]
    }

    /// Where the module of unit tests begins.
    pub(crate) fn tests_at(&self) -> Option<usize> {
        self.code.find("#[cfg(test)]\nmod ")
    }

    /// Formatted strings that are statements rather than messages, with their lines, unit tests left out.
    pub(crate) fn formatted_sql(&self) -> Vec<(usize, &str)> {
        const VERBS: &str = "alter analyze comment copy create delete drop explain grant insert lock reindex \
                             select set truncate update vacuum with";
        let is_statement = |text: &str| {
            let first = text.split_whitespace().next().unwrap_or_default();
            VERBS.split_whitespace().any(|verb| verb.eq_ignore_ascii_case(first))
        };
        let end = self.code_without_tests().len();
        let statements = self.formats.iter().filter(|(at, text)| *at < end && is_statement(text));
        statements.map(|(at, text)| (line_of(&self.code, *at), text.as_str())).collect()
    }
}

/// The position behind `closing`, looked for from `from`.
fn end_of(chars: &[char], from: usize, closing: &str) -> usize {
    let closing: Vec<char> = closing.chars().collect();
    let found = (from..chars.len()).find(|at| chars[*at..].starts_with(&closing));
    found.map_or(chars.len(), |at| at + closing.len())
}

/// The position behind a string whose opening quote is at `start`.
fn string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[..start].iter().rev().take_while(|char| **char == '#').count();
    let before = chars[..start - hashes].iter().rev();
    let prefix: String = before.take_while(|char| char.is_alphanumeric() || **char == '_').collect();
    // Read backwards: r"", br"" and cr"" know no escapes.
    if ["r", "rb", "rc"].contains(&prefix.as_str()) {
        return end_of(chars, start + 1, &format!("\"{}", "#".repeat(hashes)));
    }
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Top-level modules that a text names after `crate::`, with their lines.
pub(crate) fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect()
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
    // Items of the root itself and the comma before a closing brace are no modules.
    paths.retain(|(_, name)| name.starts_with(|first: char| first.is_lowercase()));
    paths
}

/// The top-level module of a file in src/; none for the two roots.
pub(crate) fn module_of(name: &str) -> Option<&str> {
    let module = name.strip_prefix("src/")?.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    (module != "lib" && module != "main").then_some(module)
}

/// Lines that hold a word which is not the end of a longer one.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let stands_alone = |at: usize| {
        let before = code[..at].chars().next_back();
        !word.starts_with(char::is_alphabetic)
            || !before.is_some_and(|char| char.is_alphanumeric() || char == '_')
    };
    code.match_indices(word).filter(|(at, _)| stands_alone(*at)).map(|(at, _)| line_of(code, at)).collect()
}

/// The line of a position, counted from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file that has to be there.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}:1: {error}"))
}

/// Rust files below the named folders.
pub(crate) fn rust_files(folders: &[&str]) -> Vec<RustFile> {
    let wanted = |name: &str| {
        name.ends_with(".rs") && folders.iter().any(|folder| name.starts_with(&format!("{folder}/")))
    };
    let files = text_files().into_iter().filter(|(name, _)| wanted(name));
    files.map(|(name, text)| RustFile::new(name, text)).collect()
}

/// Markdown files by name.
pub(crate) fn documents() -> BTreeMap<String, String> {
    text_files().into_iter().filter(|(name, _)| name.ends_with(".md")).collect()
}

/// All files of the repository that are text, by name.
pub(crate) fn text_files() -> Vec<(String, String)> {
    // What .gitignore leaves out, and git's own.
    const LEFT_OUT: &[&str] = &["target", ".vecload", ".git", "compose/secrets"];
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository can be listed") {
            let entry = entry.expect("an entry of the repository can be read");
            let name = folder.join(entry.file_name());
            let kind = entry.file_type().expect("an entry has a type");
            if LEFT_OUT.iter().any(|left_out| name == Path::new(left_out)) {
                continue;
            }
            if kind.is_dir() {
                folders.push(name);
            } else if kind.is_file()
                && let Ok(bytes) = fs::read(entry.path())
                && let Ok(text) = String::from_utf8(bytes)
            {
                files.push((name.to_str().expect("names are UTF-8").to_string(), text));
            }
        }
    }
    files.sort();
    files
}

/// Links of a document with their lines, those in code left out.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
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
pub(crate) fn headings(text: &str) -> BTreeSet<String> {
    let titles =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |char: &char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_');
    let anchor =
        |title: &str| title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
    titles.map(anchor).collect()
}

/// `link` as seen from the document `from`, relative to the repository.
pub(crate) fn resolve(from: &str, link: &str) -> String {
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
