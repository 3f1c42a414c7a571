//! What was measured, beside what it has to be.

use std::fmt::{Display, Formatter, Result};
use std::fs;

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    load: &'static str,
    figure: &'static str,
    value: f64,
    unit: &'static str,
    bound: Bound,
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Only told.
    None,
}

impl Row {
    pub(crate) fn new(
        load: &'static str,
        figure: &'static str,
        value: f64,
        unit: &'static str,
        bound: Bound,
    ) -> Self {
        Self { load, figure, value, unit, bound }
    }

    pub(crate) fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.value >= least,
            Bound::AtMost(most) => self.value <= most,
            Bound::None => true,
        }
    }
}

/// A number with as many digits as say something.
fn short(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { load, figure, value, unit, bound } = self;
        let bound = match bound {
            Bound::AtLeast(least) => format!("at least {}", short(*least)),
            Bound::AtMost(most) => format!("at most {}", short(*most)),
            Bound::None => String::new(),
        };
        let missed = if self.holds() { "" } else { " **missed**" };
        write!(f, "| {load} | {figure} | {} {unit}{missed} | {bound} |", short(*value))
    }
}

/// Writes the table.
pub(crate) fn write(rows: &[Row]) {
    let mut text = String::from("| load | figure | measured | target |\n|---|---|---|---|\n");
    for row in rows {
        text.push_str(&format!("{row}\n"));
    }
    fs::write("target/load/table.md", text).unwrap();
}
