//! `#include` in programs: the files are in the guest, the compiler is on the host.
//!
//! A driver on the same machine reads an included file when it compiles. Here the files that a program includes are put
//! into its text before it goes to the host, with `#line` directives so that the build log speaks of the file and line
//! that the programmer knows. What is not found in the guest stays as it is: the host's compiler has headers of its own.
//!
//! Only the text is followed, not its macros: a file is put in also where an `#if` leaves it out later, which changes
//! nothing, and `#include MACRO` is left alone.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::core::options;

/// Longest text that is made. Beyond it, the text is left as it was.
const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;
/// Files that include each other deeper than this are left alone.
const MAX_DEPTH: usize = 64;
/// How the log names the text that the application gave.
const MAIN_NAME: &str = "<program source>";

/// The program's text with the files that it includes, or `None` if there are none: `options` are the build's, `headers`
/// the names by which other programs are included.
pub(super) fn expand(source: &[u8], options: &[u8], headers: &[Vec<u8>]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(source).ok()?;
    if !text.contains("include") {
        return None;
    }
    let mut expansion = Expansion {
        directories: include_directories(&String::from_utf8_lossy(options)),
        headers,
        once: HashMap::new(),
        stack: Vec::new(),
        out: String::new(),
        found: false,
    };
    expansion.add(text, MAIN_NAME, None)?;
    expansion.found.then(|| expansion.out.into_bytes())
}

struct Expansion<'a> {
    directories: Vec<PathBuf>,
    headers: &'a [Vec<u8>],
    /// Files that say `#pragma once`, with the number in their guard's name.
    once: HashMap<PathBuf, usize>,
    stack: Vec<PathBuf>,
    out: String,
    found: bool,
}

impl Expansion<'_> {
    /// Appends a text with what it includes; `None` if that is too long.
    fn add(&mut self, text: &str, name: &str, directory: Option<&Path>) -> Option<()> {
        let mut comment = false;
        for (index, line) in text.lines().enumerate() {
            let included = if comment { None } else { included_file(line) };
            comment = in_comment_after(line, comment);
            match included.and_then(|(file, quoted)| self.find(file, directory.filter(|_| quoted), quoted)) {
                Some((path, content)) => {
                    self.found = true;
                    self.add_file(&path, &content)?;
                    self.out.push_str(&format!("#line {} \"{name}\"\n", index + 2));
                }
                None if is_pragma_once(line) => self.out.push('\n'),
                None => {
                    self.out.push_str(line);
                    self.out.push('\n');
                }
            }
            if self.out.len() > MAX_TEXT_BYTES {
                return None;
            }
        }
        Some(())
    }

    fn add_file(&mut self, path: &Path, content: &str) -> Option<()> {
        // A file with a guard that is open already would add nothing but its guard again, for ever.
        let once = content.lines().any(is_pragma_once);
        if self.stack.iter().any(|open| open == path) && (once || has_guard(content)) {
            return Some(());
        }
        let guard = once.then(|| {
            let number = self.once.len();
            *self.once.entry(path.to_owned()).or_insert(number)
        });
        if let Some(number) = guard {
            self.out.push_str(&format!("#ifndef PARAGPU_ONCE_{number}\n#define PARAGPU_ONCE_{number}\n"));
        }
        let name = path.display().to_string().replace(['"', '\\', '\n'], "_");
        self.out.push_str(&format!("#line 1 \"{name}\"\n"));
        self.stack.push(path.to_owned());
        let added = self.add(content, &name, path.parent());
        self.stack.pop();
        if guard.is_some() {
            self.out.push_str("#endif\n");
        }
        added
    }

    /// Looks for a file as compilers do: `"file"` beside the including one first, then in the directories of the
    /// options, then in the current one.
    fn find(&self, file: &str, beside: Option<&Path>, quoted: bool) -> Option<(PathBuf, String)> {
        // The host's compiler has the text of headers.
        let is_header = self.headers.iter().any(|name| name == file.as_bytes());
        if self.stack.len() >= MAX_DEPTH || is_header {
            return None;
        }
        let current = quoted.then(|| Path::new("."));
        let directories =
            beside.into_iter().chain(self.directories.iter().map(PathBuf::as_path)).chain(current);
        directories.map(|directory| directory.join(file)).find_map(|path| {
            let path = path.canonicalize().ok().filter(|path| path.is_file())?;
            let is_short = path.metadata().is_ok_and(|file| file.len() <= MAX_TEXT_BYTES as u64);
            let content = if is_short { fs::read_to_string(&path).ok()? } else { return None };
            Some((path, content))
        })
    }
}

/// The directories of `-I` options, in order.
fn include_directories(options: &str) -> Vec<PathBuf> {
    let words = options::words(options);
    let mut words = words.iter();
    let mut directories = Vec::new();
    while let Some(word) = words.next() {
        match word.strip_prefix("-I") {
            Some("") => directories.extend(words.next().map(PathBuf::from)),
            Some(directory) => directories.push(PathBuf::from(directory)),
            None => {}
        }
    }
    directories
}

/// What follows `#name` on a line that is that directive.
fn directive<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix(name)?;
    (!rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')).then(|| rest.trim_start())
}

/// The file of an `#include` directive, and whether it is in quotes.
fn included_file(line: &str) -> Option<(&str, bool)> {
    let rest = directive(line, "include")?;
    let (quoted, rest, close) = match (rest.strip_prefix('"'), rest.strip_prefix('<')) {
        (Some(rest), _) => (true, rest, '"'),
        (_, Some(rest)) => (false, rest, '>'),
        _ => return None,
    };
    let (file, _) = rest.split_once(close)?;
    (!file.is_empty()).then_some((file, quoted))
}

fn is_pragma_once(line: &str) -> bool {
    directive(line, "pragma").is_some_and(|rest| rest.trim_end() == "once")
}

/// True if the first two directives are `#ifndef X` and `#define X`.
fn has_guard(content: &str) -> bool {
    let mut directives = content.lines().filter(|line| line.trim_start().starts_with('#'));
    let first = directives.next().and_then(|line| directive(line, "ifndef"));
    let second = directives.next().and_then(|line| directive(line, "define"));
    let name = |rest: &str| rest.split_whitespace().next().map(str::to_owned);
    matches!((first.and_then(name), second.and_then(name)), (Some(a), Some(b)) if a == b)
}

/// True if a `/* … */` comment is open after this line.
fn in_comment_after(line: &str, mut comment: bool) -> bool {
    let mut rest = line;
    loop {
        if comment {
            let Some((_, after)) = rest.split_once("*/") else { return true };
            (rest, comment) = (after, false);
            continue;
        }
        let Some(at) = rest.find(['/', '"']) else { return false };
        let (_, from) = rest.split_at(at);
        if from.starts_with("//") {
            return false;
        } else if let Some(after) = from.strip_prefix("/*") {
            (rest, comment) = (after, true);
        } else if let Some(after) = from.strip_prefix('"') {
            rest = after_string(after);
        } else {
            rest = &from[1..];
        }
    }
}

/// What follows the quote that ends a string.
fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with files, and the option that names it.
    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let option = format!("-cl-fast-relaxed-math -I {}", directory.path().display());
        (directory, option)
    }

    fn expanded(source: &str, options: &str) -> Option<String> {
        expand(source.as_bytes(), options.as_bytes(), &[]).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_file_goes_where_it_is_included_and_lines_keep_their_numbers() {
        let (directory, options) = directory(&[("k.h", "int a;\nint b;\n")]);
        let path = directory.path().join("k.h").canonicalize().unwrap();
        let text = expanded("// one\n#include \"k.h\"\nkernel", &options).unwrap();
        let path = path.display();
        assert_eq!(
            text,
            format!("// one\n#line 1 \"{path}\"\nint a;\nint b;\n#line 3 \"{MAIN_NAME}\"\nkernel\n")
        );
    }

    #[test]
    fn files_include_what_lies_beside_them() {
        let (_directory, options) =
            directory(&[("sub/a.h", "#include \"b.h\"\n"), ("sub/b.h", "beside\n"), ("b.h", "above\n")]);
        let text = expanded("#include <sub/a.h>\n", &options).unwrap();
        assert!(text.contains("beside") && !text.contains("above"), "{text}");
    }

    #[test]
    fn what_is_not_found_or_no_directive_stays() {
        let (_directory, options) = directory(&[("k.h", "found\n")]);
        for source in [
            "#include \"nowhere.h\"\n",
            "#include <opencl-c.h>\n",
            "// #include \"k.h\"\n",
            "/* a comment\n#include \"k.h\"\n*/\n",
            "#include HEADER\n",
            "#included \"k.h\"\n",
            "constant char *s = \"include\";\n",
            "no directive at all\n",
        ] {
            assert_eq!(expanded(source, &options), None, "{source}");
        }
        // A comment that ended, and one that only looks like one.
        for source in ["/* x */ int i; /*\n*/\n#include \"k.h\"\n", "char *s = \"/*\";\n # include <k.h>\n"] {
            assert!(expanded(source, &options).is_some_and(|text| text.contains("found")), "{source}");
        }
    }

    #[test]
    fn guarded_files_that_include_each_other_come_to_an_end() {
        let (_directory, options) = directory(&[
            ("a.h", "#ifndef A\n#define A\n#include \"b.h\"\nin_a\n#endif\n"),
            ("b.h", "#pragma once\n#include \"a.h\"\nin_b\n"),
            ("self.h", "#include \"self.h\"\nx\n"),
        ]);
        let text = expanded("#include \"a.h\"\n#include \"b.h\"\n", &options).unwrap();
        assert_eq!(text.matches("#ifndef PARAGPU_ONCE_0\n").count(), 2, "{text}");
        assert!(!text.contains("#pragma once") && text.contains("in_a") && text.contains("in_b"));
        let text = expanded("#include \"self.h\"\n", &options).unwrap();
        assert_eq!(text.matches("\nx\n").count(), MAX_DEPTH);
    }

    #[test]
    fn directories_are_those_of_the_options() {
        assert_eq!(include_directories("-I a -Ib -D X=\"-Iz\" -I"), [Path::new("a"), Path::new("b")]);
    }

    #[test]
    fn a_header_that_is_a_program_is_left_to_the_compiler() {
        let (_directory, options) = directory(&[("k.h", "file\n"), ("a.h", "#include \"k.h\"\n")]);
        let expand = |source: &str| expand(source.as_bytes(), options.as_bytes(), &[b"k.h".to_vec()]);
        assert_eq!(expand("#include \"k.h\"\n"), None);
        let text = String::from_utf8(expand("#include \"a.h\"\n").unwrap()).unwrap();
        assert!(text.contains("#include \"k.h\"") && !text.contains("file"), "{text}");
    }
}
