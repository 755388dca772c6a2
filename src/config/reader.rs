//! Reads tables key by key: what is not read is unknown, and every mistake is kept.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::problem::{Place, Problem, Problems, shown};
use super::tree::{Item, Span, Table, Value};

/// Where each key of a text is, with its value: for mistakes that show only later.
pub(super) type Places = BTreeMap<String, (Place, String)>;

/// A text that is read, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Source<'t> {
    text: Option<&'t str>,
    found: RefCell<(Problems, Places)>,
}

impl<'t> Source<'t> {
    /// Without a text, mistakes have no place.
    pub(super) fn new(text: Option<&'t str>) -> Source<'t> {
        Source { text, found: RefCell::new((Problems::none(), Places::new())) }
    }

    pub(super) fn problem(&self, key: String, span: &Span, value: Option<String>, message: String) {
        let place = self.place(span);
        self.found.borrow_mut().0.push(Problem { key, place, value, message });
    }

    fn place(&self, span: &Span) -> Option<Place> {
        Some(Place::of(self.text?, span.as_ref()?.start))
    }

    /// A value as written.
    fn shown(&self, item: &Item) -> String {
        let written = self.text.zip(item.span.clone()).and_then(|(text, span)| text.get(span));
        written.map_or_else(|| render(&item.value), shown)
    }

    pub(super) fn finish(self) -> (Problems, Places) {
        self.found.into_inner()
    }
}

/// A value that has no text of its own.
fn render(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::Text(text) => shown(&format!("{text:?}")),
        Value::List(_) => "[…]".to_owned(),
        Value::Table(_) => "{…}".to_owned(),
        Value::Other => "…".to_owned(),
    }
}

/// Reads one table.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    source: &'a Source<'a>,
    path: String,
    table: &'a Table,
    span: Span,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// `path` is what the table is called in errors; the outermost has none.
    pub(super) fn new(source: &'a Source<'a>, path: String, table: &'a Table, span: Span) -> Reader<'a> {
        Reader { source, path, table, span, known: Vec::new() }
    }

    /// A key's name from the outermost table on.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, which is known from now on.
    fn item(&mut self, key: &'static str) -> Option<&'a Item> {
        self.known.push(key);
        let (_, item) = self.table.iter().find(|(found, _)| found.name == key)?;
        if let Some(place) = self.source.place(&item.span) {
            let shown = self.source.shown(item);
            self.source.found.borrow_mut().1.insert(self.path(key), (place, shown));
        }
        Some(item)
    }

    /// A key's value, read by `read`; nothing if it is not there, or wrong.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.item(key)?;
        match read(&item.value) {
            Ok(value) => Some(value),
            Err(message) => {
                self.source.problem(self.path(key), &item.span, Some(self.source.shown(item)), message);
                None
            }
        }
    }

    /// A key's value; `base` if it is not there, and `default` if it is `null`.
    pub(super) fn pick<T: Clone>(
        &mut self,
        key: &'static str,
        (base, default): (&T, &T),
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        let read = |value: &Value| if *value == Value::Null { Ok(default.clone()) } else { read(value) };
        self.take(key, read).unwrap_or_else(|| base.clone())
    }

    /// A table below this one; `Err` if it is `null`.
    pub(super) fn below(&mut self, key: &'static str) -> Option<Result<Reader<'a>, ()>> {
        let item = self.item(key)?;
        match &item.value {
            Value::Null => Some(Err(())),
            Value::Table(table) => {
                Some(Ok(Reader::new(self.source, self.path(key), table, item.span.clone())))
            }
            value => {
                let message = format!("this is {}; a table is wanted", value.kind());
                self.source.problem(self.path(key), &item.span, Some(self.source.shown(item)), message);
                None
            }
        }
    }

    /// The tables of a list (`[[key]]`), each called by its name if it has one.
    pub(super) fn each(&mut self, key: &'static str) -> Vec<Reader<'a>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let Value::List(items) = &item.value else {
            let message = format!("this is {}; write it as [[{key}]]", item.value.kind());
            self.source.problem(self.path(key), &item.span, Some(self.source.shown(item)), message);
            return Vec::new();
        };
        let mut readers = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Value::Table(table) = &item.value else {
                let message = format!("this is {}; write it as [[{key}]]", item.value.kind());
                self.source.problem(self.path(key), &item.span, Some(self.source.shown(item)), message);
                continue;
            };
            let name = table.iter().find_map(|(found, item)| match &item.value {
                Value::Text(name) if found.name == "name" && is_name(name) => Some(name),
                _ => None,
            });
            let path = match name {
                Some(name) => format!("{}.{name}", self.path(key)),
                None => format!("{}[{index}]", self.path(key)),
            };
            readers.push(Reader::new(self.source, path, table, item.span.clone()));
        }
        readers
    }

    /// A mistake about a key of this table, whether or not it is there.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let found = self.table.iter().find(|(found, _)| found.name == key);
        let (span, value) = match found {
            Some((_, item)) => (&item.span, Some(self.source.shown(item))),
            None => (&self.span, None),
        };
        self.source.problem(self.path(key), span, value, message.into());
    }

    /// True if the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(found, _)| found.name == key)
    }

    /// The end: a key that nobody read is unknown.
    pub(super) fn finish(self) {
        for (key, _) in self.table {
            if self.known.contains(&key.name.as_str()) {
                continue;
            }
            let near = self.known.iter().find(|known| is_near(known, &key.name));
            let meant = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let message = format!("unknown key{meant} (keys here: {})", self.known.join(", "));
            self.source.problem(self.path(&shown(&key.name)), &key.span, None, message);
        }
    }
}

/// Most characters of the name of a vGPU or a device.
const MAX_NAME: usize = 64;

/// Names are parts of log lines, file names and URLs.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts && name.len() <= MAX_NAME && name.chars().all(allowed)
}

/// A name like this text: the characters that names may have, and others replaced.
pub fn name_made_of(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    text.chars().take(MAX_NAME).map(allowed).collect()
}

/// What a name must be, for errors.
pub(super) fn name_rule() -> String {
    format!("a name is 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -, and starts with a letter or digit")
}

/// True for a word with a letter or two wrong, or with `_` for `-`.
fn is_near(known: &str, given: &str) -> bool {
    if given.len() > known.len() + 2 {
        return false;
    }
    // Edit distance, one row at a time; swapped neighbours count as two.
    let mut row: Vec<usize> = (0..=given.len()).collect();
    for (i, a) in known.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in given.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[given.len()] <= 2
}
