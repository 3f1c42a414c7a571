//! Results on standard output: tables on a terminal, ids in a pipe, the service's own JSON on request. Notes go to standard error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::Result;
use serde_json::Value;

use crate::client::Answer;
use crate::stdout;

/// How results are shown.
pub(super) struct Output {
    pub(super) json: bool,
    quiet: bool,
    /// Standard output is a terminal.
    pub(super) is_terminal: bool,
    /// Standard error is one.
    pub(super) notes_to_terminal: bool,
    colors: bool,
    /// Warnings that were said.
    warned: RefCell<BTreeSet<String>>,
}

/// A column of a table: its title, and what it shows of an object.
pub(super) type Column = (&'static str, fn(&Value) -> String);

impl Output {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self {
            json,
            quiet,
            is_terminal,
            notes_to_terminal: std::io::stderr().is_terminal(),
            colors: stdout::takes_colors(),
            warned: RefCell::default(),
        }
    }

    /// Whether progress is shown.
    pub(super) fn shows_progress(&self) -> bool {
        !self.quiet
    }

    /// Says something beside the result.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", printable(text));
        }
    }

    /// Says what the service warns of, once. It is said in any case: a result may be another than was meant.
    pub(super) fn warnings(&self, body: &Value) {
        for warning in body["warnings"].as_array().into_iter().flatten() {
            let (detail, code) = (text(&warning["detail"]), text(&warning["code"]));
            if self.warned.borrow_mut().insert(detail.clone()) {
                eprintln!("warning: {} ({code})", printable(&detail));
            }
        }
    }

    /// The service's answer as it came.
    pub(super) fn body(&self, answer: &Answer) -> Result<()> {
        let mut bytes = answer.bytes.to_vec();
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        stdout::write(&bytes)
    }

    /// A thing that was made or changed: its body, or a sentence, or its id.
    pub(super) fn done(&self, answer: &Answer, id: &str, sentence: &str) -> Result<()> {
        if self.json {
            self.body(answer)
        } else if self.is_terminal {
            self.line(sentence)
        } else {
            stdout::line(id)
        }
    }

    /// A secret that is shown this once. In a pipe, standard output has it alone.
    pub(super) fn secret(&self, answer: &Answer) -> Result<()> {
        if self.json {
            return self.body(answer);
        }
        self.note(&format!("the secret of {} is shown this once:", text(&answer.value["id"])));
        self.line(&text(&answer.value["secret"]))
    }

    /// A sentence as a result.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        stdout::line(&printable(text))
    }

    /// Objects as a table, or their ids.
    pub(super) fn table(&self, objects: &[Value], columns: &[Column]) -> Result<()> {
        if !self.is_terminal {
            let ids: Vec<String> =
                objects.iter().map(|object| text(&object["id"]) + "\n").collect();
            return stdout::print(&ids.concat());
        }
        self.rows(objects, columns)
    }

    /// Objects as a table, also in a pipe.
    pub(super) fn rows(&self, objects: &[Value], columns: &[Column]) -> Result<()> {
        let rows: Vec<Vec<String>> = objects
            .iter()
            .map(|object| columns.iter().map(|(_, show)| printable(&show(object))).collect())
            .collect();
        let widths: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(index, (title, _))| {
                let cells = rows.iter().map(|row| row[index].chars().count());
                cells.chain([title.len()]).max().unwrap_or(0)
            })
            .collect();
        let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect::<Vec<_>>();
        let mut lines = self.strong(&joined(&titles, &widths)) + "\n";
        for row in &rows {
            lines += &self.colored(&joined(row, &widths));
            lines.push('\n');
        }
        stdout::print(&lines)
    }

    /// One thing, a line for each of its properties.
    pub(super) fn properties(&self, properties: &[(&str, String)]) -> Result<()> {
        let width = properties.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let shown = properties.iter().filter(|(_, value)| !value.is_empty());
        let lines: Vec<String> = shown
            .map(|(name, value)| {
                let name = self.strong(&format!("{name:width$}"));
                format!("{name}  {}\n", self.colored(&printable(value)))
            })
            .collect();
        stdout::print(&lines.concat())
    }

    fn strong(&self, text: &str) -> String {
        match self.colors {
            true => format!("\x1b[1m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// The words for states in colours.
    fn colored(&self, text: &str) -> String {
        if !self.colors {
            return text.to_owned();
        }
        let words = text.split_inclusive(' ').map(|piece| {
            let word = piece.trim_end();
            let color = match word {
                "succeeded" | "ok" | "ready" => "32",
                "failed" | "fail" | "missing" | "conflict" | "rejected" => "31",
                "running" | "canceling" => "36",
                "queued" | "canceled" | "warn" | "risky" | "pending" => "33",
                _ => return piece.to_owned(),
            };
            format!("\x1b[{color}m{word}\x1b[0m{}", &piece[word.len()..])
        });
        words.collect()
    }
}

/// Cells in columns, without blanks at the end.
fn joined(cells: &[String], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
    padded.collect::<String>().trim_end().to_owned()
}

/// Without control characters, with which a name could write over the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value as it stands in a table; empty for null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time without its seconds: `2026-11-28 23:59`.
pub(super) fn time(value: &Value) -> String {
    let text = text(value);
    text.get(..16).map_or(text.clone(), |start| start.replace('T', " "))
}

/// A size such as `5.2 MB`.
pub(super) fn size(value: &Value) -> String {
    let Some(bytes) = value.as_f64() else { return String::new() };
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

/// A duration such as `0:42` or `1:05:00`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A number of things, such as `1 photo` or `6 photos`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Values of an array, separated by commas.
pub(super) fn listed(values: &Value, show: fn(&Value) -> String) -> String {
    let values = values.as_array().into_iter().flatten().map(show);
    values.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_table_shows_is_short() {
        assert_eq!(time(&json!("2026-11-28T23:59:01.123Z")), "2026-11-28 23:59");
        assert_eq!(time(&Value::Null), "");
        assert_eq!(size(&json!(5_200_000)), "5.2 MB");
        assert_eq!(size(&json!(12)), "12 B");
        assert_eq!([duration(41.7), duration(3900.0)], ["0:42", "1:05:00"]);
        assert_eq!(printable("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let cells = ["rex", "dog", "a word"].map(str::to_owned);
        assert_eq!(joined(&cells, &[6, 3, 9]), "rex     dog  a word");
    }
}
