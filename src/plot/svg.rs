//! Axes, ticks and marks of a plot.

use std::fmt::Write as _;

/// Size of a plot and the margins around its axes, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 52.0;
/// About how many ticks an axis has.
const TICKS: f64 = 6.0;

/// Colors that can be told apart by most people (Okabe and Ito).
pub(super) const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444", "#a6761d"];

/// What an axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    low: f64,
    high: f64,
}

impl Range {
    /// Finite values with a margin; 0 to 1 for none.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Self {
        let range = values.filter(|value| value.is_finite()).fold(None, |range, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((value.min(low), value.max(high)))
        });
        let (low, high): (f64, f64) = range.unwrap_or((0.0, 1.0));
        let margin = (0.1 * (high - low)).max(0.02);
        Self { low: low - margin, high: high + margin }
    }

    /// From 0 to the largest value.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let high = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        Self { low: 0.0, high: if high > 0.0 { high } else { 1.0 } }
    }

    /// Where a value lies between the ends.
    fn fraction(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Round numbers within the range.
    fn ticks(self) -> Vec<f64> {
        let rough = (self.high - self.low) / TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|multiple| multiple * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }
}

/// Both axes of a plot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axes {
    pub(super) x: Range,
    pub(super) y: Range,
}

impl Axes {
    /// Pixels of a point.
    pub(super) fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (
            LEFT + self.x.fraction(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - self.y.fraction(y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    pub(super) fn line(&self, from: (f64, f64), to: (f64, f64), color: &str) -> String {
        let ((x1, y1), (x2, y2)) = (self.place(from.0, from.1), self.place(to.0, to.1));
        format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}" stroke-width="1.5"/>
"#
        )
    }

    /// A dashed line across the plot.
    pub(super) fn horizontal(&self, y: f64, label: &str) -> String {
        let (_, py) = self.place(self.x.low, y);
        format!(
            r##"<line x1="{LEFT}" y1="{py:.1}" x2="{:.1}" y2="{py:.1}" stroke="#888" stroke-dasharray="5 4"/>
<text x="{:.1}" y="{:.1}" fill="#666" text-anchor="end">{}</text>
"##,
            WIDTH - RIGHT,
            WIDTH - RIGHT - 4.0,
            py - 5.0,
            escaped(label)
        )
    }

    /// The name of a series in the upper right corner.
    pub(super) fn legend(&self, index: usize, name: &str, color: &str) -> String {
        let y = TOP + 16.0 * (index + 1) as f64;
        format!(
            r#"<text x="{:.1}" y="{y:.1}" fill="{color}" text-anchor="end">{}</text>
"#,
            WIDTH - RIGHT - 8.0,
            escaped(name)
        )
    }
}

/// A whole plot around its marks.
pub(super) fn frame(axes: &Axes, x_label: &str, y_label: &str, marks: &str) -> String {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
"##
    );
    for tick in axes.x.ticks() {
        let (x, _) = axes.place(tick, axes.y.low);
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" stroke="#eee"/><text x="{x:.1}" y="{:.1}" fill="#444" text-anchor="middle">{}</text>"##,
            bottom + 18.0,
            number(tick)
        );
    }
    for tick in axes.y.ticks() {
        let (_, y) = axes.place(axes.x.low, tick);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#eee"/><text x="{:.1}" y="{:.1}" fill="#444" text-anchor="end">{}</text>"##,
            LEFT - 8.0,
            y + 4.0,
            number(tick)
        );
    }
    let _ = writeln!(
        svg,
        r##"<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>
<text x="{:.1}" y="{:.1}" fill="#222" text-anchor="middle">{}</text>
<text transform="translate(18 {:.1}) rotate(-90)" fill="#222" text-anchor="middle">{}</text>"##,
        (LEFT + right) / 2.0,
        HEIGHT - 14.0,
        escaped(x_label),
        (TOP + bottom) / 2.0,
        escaped(y_label)
    );
    svg + marks + "</svg>\n"
}

/// A tick without the digits that floating point adds.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A text as XML.
pub(super) fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        let range = Range { low: -0.04, high: 1.02 };

        let ticks: Vec<String> = range.ticks().into_iter().map(number).collect();

        assert_eq!(ticks, ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    }

    #[test]
    fn a_range_of_one_value_has_a_width() {
        let range = Range::around([0.5].into_iter());

        assert!(range.low < 0.5 && range.high > 0.5);
        assert_eq!(
            Range::around([f64::NAN].into_iter()),
            Range::around(std::iter::empty::<f64>().chain([0.0, 1.0]))
        );
    }
}
