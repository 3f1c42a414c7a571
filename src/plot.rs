//! Plots of an evaluation as SVG.

mod svg;

use std::fmt::Write as _;

use self::svg::{Axes, COLORS, Range, escaped, frame};
use crate::domain::evaluation::report::{EvaluationReport, SubjectReport};

/// A training's loss, step by step.
#[derive(Clone, Debug)]
pub struct LossCurve {
    pub name: String,
    /// Steps and losses, in order.
    pub points: Vec<(f64, f64)>,
}

/// The most points of a curve: about one per pixel.
const MAX_POINTS: usize = 500;
/// Weight of a new loss in the smoothed one.
const SMOOTHING: f64 = 0.05;

/// Text-alignment against image-alignment, as in the paper's Figure 7: one point per subject with its intervals, and the
/// photos among themselves as a line.
pub fn alignment(report: &EvaluationReport) -> String {
    let points: Vec<(&SubjectReport, f64, f64)> = report
        .subjects
        .iter()
        .filter_map(|subject| {
            let (x, y) = (subject.text_alignment.mean?, subject.image_alignment.mean?);
            (x.is_finite() && y.is_finite()).then_some((subject, x, y))
        })
        .collect();
    let ends = |interval: Option<[f64; 2]>| interval.into_iter().flatten();
    let xs =
        points.iter().flat_map(|(subject, x, _)| ends(subject.text_alignment.interval).chain([*x]));
    let ys = points
        .iter()
        .flat_map(|(subject, _, y)| ends(subject.image_alignment.interval).chain([*y]));
    let axes = Axes { x: Range::around(xs), y: Range::around(ys.chain(report.photos_alignment)) };
    let mut marks = String::new();
    if let Some(photos) = report.photos_alignment {
        marks += &axes.horizontal(photos, "photos among themselves");
    }
    for (index, (subject, x, y)) in points.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        if let Some([low, high]) = subject.text_alignment.interval {
            marks += &axes.line((low, *y), (high, *y), color);
        }
        if let Some([low, high]) = subject.image_alignment.interval {
            marks += &axes.line((*x, low), (*x, high), color);
        }
        let (px, py) = axes.place(*x, *y);
        let name = escaped(&subject.name);
        let _ = writeln!(
            marks,
            r#"<circle cx="{px:.1}" cy="{py:.1}" r="5" fill="{color}"><title>{name}: text {x:.3}, image {y:.3}</title></circle>
<text x="{:.1}" y="{:.1}" fill="{color}">{name}</text>"#,
            px + 8.0,
            py - 8.0,
        );
    }
    frame(&axes, "text-alignment", "image-alignment", &marks)
}

/// Loss curves, smoothed.
pub fn loss(curves: &[LossCurve]) -> String {
    let curves: Vec<(&str, Vec<(f64, f64)>)> =
        curves.iter().map(|curve| (curve.name.as_str(), smoothed(&curve.points))).collect();
    let all = || curves.iter().flat_map(|(_, points)| points);
    let axes = Axes {
        x: Range::from_zero(all().map(|(step, _)| *step)),
        y: Range::around(all().map(|(_, loss)| *loss)),
    };
    let mut marks = String::new();
    for (index, (name, points)) in curves.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let place = |(step, loss): &(f64, f64)| {
            let (x, y) = axes.place(*step, *loss);
            format!("{x:.1},{y:.1}")
        };
        let path: Vec<String> = points.iter().map(place).collect();
        let _ = writeln!(
            marks,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="1.5"/>"#,
            path.join(" ")
        );
        marks += &axes.legend(index, name, color);
    }
    frame(&axes, "step", "loss", &marks)
}

/// Smoothed and thinned; what is not finite is left out.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut mean: Option<f64> = None;
    let finite = points.iter().filter(|(step, loss)| step.is_finite() && loss.is_finite());
    let smooth: Vec<(f64, f64)> = finite
        .map(|(step, loss)| {
            let now = mean.map_or(*loss, |mean| mean + SMOOTHING * (loss - mean));
            mean = Some(now);
            (*step, now)
        })
        .collect();
    let every = smooth.len().div_ceil(MAX_POINTS).max(1);
    smooth.into_iter().step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_plot_is_still_a_plot_without_nan() {
        let nothing = loss(&[]);
        let nan = loss(&[LossCurve { name: "a".into(), points: vec![(1.0, f64::NAN)] }]);
        let one = loss(&[LossCurve { name: "<rex>".into(), points: vec![(1.0, 0.5)] }]);

        for svg in [nothing, nan, one.clone()] {
            assert!(
                svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"),
                "{svg}"
            );
        }
        assert!(one.contains("&lt;rex&gt;"));
    }

    #[test]
    fn a_long_curve_is_thinned() {
        let points: Vec<(f64, f64)> = (0..5000).map(|step| (f64::from(step), 1.0)).collect();

        assert!(smoothed(&points).len() <= MAX_POINTS);
    }
}
