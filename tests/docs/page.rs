//! A page of Markdown as the tests read it: its fenced blocks, its headings, its links, what it quotes.

use std::{fs, path::PathBuf};

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A page by its path in the repository.
pub(crate) struct Page {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What stands between two fences.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Of the opening fence, from 1.
    pub(crate) line: usize,
    pub(crate) language: String,
    /// What follows the language: words, `key=value`, `key="some words"`.
    pub(crate) marks: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn mark(&self, name: &str) -> Option<&str> {
        let found = self.marks.iter().find(|(mark, _)| mark == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it is commands for a shell.
    pub(crate) fn is_typed(&self) -> bool {
        matches!(self.language.as_str(), "bash" | "sh" | "console")
    }
}

/// Every page that people read. The manual has a runner of its own, and notes of decisions tell nobody to type anything.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in fs::read_dir(PathBuf::from(ROOT).join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") && name != "field-manual.md" {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let text = fs::read_to_string(PathBuf::from(ROOT).join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        Self {
            path: path.to_owned(),
            text,
        }
    }

    /// The fenced blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(info)) => {
                    let (language, marks) = info.split_once(' ').unwrap_or((info, ""));
                    open = Some(Block {
                        line: index + 1,
                        language: language.to_owned(),
                        marks: read_marks(marks),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.path);
        blocks
    }

    /// The lines outside of fences, with their numbers.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let mut prose = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                prose.push((index + 1, line));
            }
        }
        prose
    }

    /// What stands between backticks in prose, with its line.
    pub(crate) fn quoted(&self) -> Vec<(usize, &str)> {
        let quoted = |(number, line)| {
            let parts: Vec<&str> = str::split(line, '`').collect();
            let inside = parts.into_iter().skip(1).step_by(2);
            inside.map(move |text| (number, text)).collect::<Vec<_>>()
        };
        self.prose().into_iter().flat_map(quoted).collect()
    }

    /// The targets of links and pictures, with their lines.
    pub(crate) fn links(&self) -> Vec<(usize, &str)> {
        let mut links = Vec::new();
        for (number, line) in self.prose() {
            for (at, _) in line.match_indices("](") {
                let rest = &line[at + 2..];
                links.extend(rest.split(')').next().map(|target| (number, target)));
            }
        }
        links
    }

    /// The names by which links reach its headings.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let headings = self
            .prose()
            .into_iter()
            .filter(|(_, line)| line.starts_with('#'));
        let name = |(_, line): (usize, &str)| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        };
        headings.map(name).collect()
    }
}

fn read_marks(mut text: &str) -> Vec<(String, String)> {
    let mut marks = Vec::new();
    while !text.trim_start().is_empty() {
        text = text.trim_start();
        let end = text.find([' ', '=']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (value, rest) = match rest.strip_prefix('=') {
            None => ("", rest),
            Some(quoted) if quoted.starts_with('"') => quoted[1..].split_once('"').unwrap(),
            Some(plain) => plain.split_at(plain.find(' ').unwrap_or(plain.len())),
        };
        marks.push((name.to_owned(), value.to_owned()));
        text = rest;
    }
    marks
}
