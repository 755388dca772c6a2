//! Build options, as far as this driver looks into them.

/// Splits options at white space outside of quotes; a backslash takes the next character as it is.
pub(super) fn words(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quote = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) => word.get_or_insert_default().extend(characters.next()),
            (_, Some(open)) if character == open => quote = None,
            (_, Some(_)) => word.get_or_insert_default().push(character),
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            _ if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// True if an option is among them.
pub(super) fn have(options: &[u8], option: &str) -> bool {
    words(&String::from_utf8_lossy(options)).iter().any(|word| word == option)
}

/// What follows the last option that starts so.
pub(super) fn value(options: &[u8], start: &str) -> Option<String> {
    let words = words(&String::from_utf8_lossy(options));
    words.iter().rev().find_map(|word| word.strip_prefix(start)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_as_compilers_do() {
        assert_eq!(
            words("-I a -Ib  \"-Ic d\" -I 'e f' g\\ h"),
            ["-I", "a", "-Ib", "-Ic d", "-I", "e f", "g h"]
        );
    }

    #[test]
    fn an_option_is_a_whole_word() {
        assert!(have(b"-w -cl-opt-disable", "-w"));
        assert!(!have(b"-DX=-w -wx", "-w"));
        assert_eq!(value(b"-cl-std=CL1.2 -cl-std=CL3.0", "-cl-std=").as_deref(), Some("CL3.0"));
        assert_eq!(value(b"-w", "-cl-std="), None);
    }
}
