//! A table in Markdown, and figures as its cells show them.

use std::fmt::Write as _;

use crate::scoring;

/// A table with a title.
pub(super) struct Markdown {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Markdown {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|title| (*title).to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table without columns that say nothing in any row.
    pub(super) fn without_empty_columns(mut self) -> Self {
        let says = |column: &usize| {
            *column == 0 || self.rows.iter().any(|row| row.get(*column).is_some_and(|c| c != "–"))
        };
        let kept: Vec<usize> = (0..self.head.len()).filter(says).collect();
        let of = |cells: &[String]| kept.iter().map(|column| cells[*column].clone()).collect();
        self.rows = self.rows.iter().map(|row| of(row)).collect();
        self.head = of(&self.head);
        self
    }

    /// The text of the table, under a heading.
    pub(super) fn text(&self, heading: &str, remark: &str) -> String {
        let mut text = format!("### {heading}\n\n{remark}\n\n");
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let _ = writeln!(text, "{}|{}", line(&self.head), "---|".repeat(self.head.len()));
        for row in &self.rows {
            text += &line(row);
        }
        text
    }
}

/// The mean of values with its 95 % interval, resampled over them.
pub(super) fn estimate(values: &[f64]) -> String {
    let estimate = scoring::mean_of(values, "values");
    match (estimate.mean, estimate.interval) {
        (Some(mean), Some([low, high])) => {
            format!("{} ({} to {})", figure(mean), figure(low), figure(high))
        }
        (Some(mean), None) => figure(mean),
        (None, _) => "–".to_owned(),
    }
}

/// The mean of values alone.
pub(super) fn mean(values: &[f64]) -> String {
    scoring::mean(values).map_or_else(|| "–".to_owned(), figure)
}

/// Two decimals, with the minus sign of the docs.
pub(super) fn figure(value: f64) -> String {
    let text = format!("{value:.2}");
    match text.strip_prefix('-') {
        Some("0.00") => "0.00".to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_head() {
        let mut table = Markdown::new(&["method", "mean"]);
        table.row(["soft".to_owned(), figure(-0.004)]);
        table.row(["hard".to_owned(), estimate(&[-0.2, -0.2])]);

        let text = table.text("Pairs", "Two concepts.");

        assert_eq!(
            text,
            "### Pairs\n\nTwo concepts.\n\n| method | mean |\n|---|---|\n| soft | 0.00 |\n| hard | −0.20 |\n"
        );
    }
}
