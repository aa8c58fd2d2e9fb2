//! JSON strings as Go's encoders write them: what clients and log readers of etcd are used to.

/// Characters beyond those that every JSON string escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// None: zap's log lines.
    Plain,
    /// Those that HTML and JavaScript take for something else: `encoding/json`.
    Html,
}

/// Appends `text` as a string, quotes included.
pub fn push_string(out: &mut String, text: &str, escapes: Escapes) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' => push_code(out, c),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if escapes == Escapes::Html => push_code(out, c),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn push_code(out: &mut String, c: char) {
    out.push_str(&format!("\\u{:04x}", c as u32));
}

/// `text` as a string of `encoding/json`.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text, Escapes::Html);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let text = "a\"b\\c\n<&>\u{1}\u{2028}";
        assert_eq!(string(text), r#""a\"b\\c\n\u003c\u0026\u003e\u0001\u2028""#);
        let mut plain = String::new();
        push_string(&mut plain, text, Escapes::Plain);
        assert_eq!(plain, "\"a\\\"b\\\\c\\n<&>\\u0001\u{2028}\"");
    }
}
