//! The contact sheet of an evaluation: a prompt to the row, a subject to the column, figures under the images.

use image::RgbImage;

use super::features::Thumbnails;
use crate::contact_sheet::{Cell, Row, Table};
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::report::{
    CompositionReport, Estimate, EvaluationReport, SubjectReport,
};
use crate::worker::error::JobError;

/// Draws the sheet.
///
/// - `photos`: some of each concept
/// - `thumbnails`: of each subject, prompt by prompt
pub(super) fn draw(
    task: &EvaluationTask,
    report: &EvaluationReport,
    photos: Vec<RgbImage>,
    mut thumbnails: Thumbnails,
) -> Result<RgbImage, JobError> {
    let columns = report.subjects.iter().map(|subject| (subject.name.clone(), overall(subject)));
    let among = report.photos_alignment.map_or_else(String::new, |mean| format!("image {mean:.2}"));
    let head =
        Row { label: "photos".to_owned(), cells: vec![Cell { images: photos, note: among }] };
    let mut rows = Vec::new();
    for (place, prompt) in task.prompts.iter().enumerate() {
        let cells = thumbnails.iter_mut().zip(&report.subjects).map(|(of_subject, subject)| {
            let figures = &subject.prompts[place];
            let note = match &figures.composition {
                Some(composition) => things_of(composition),
                None => format!(
                    "text {}   image {}",
                    shown(&figures.text_alignment),
                    shown(&figures.image_alignment)
                ),
            };
            Cell { images: std::mem::take(&mut of_subject[place]), note }
        });
        rows.push(Row { label: prompt.text.clone(), cells: cells.collect() });
    }
    let table = Table { columns: columns.collect(), head, rows };
    table.draw().map_err(|error| JobError::Encoding(error.into()))
}

fn overall(subject: &SubjectReport) -> String {
    let mut figures = vec![
        format!("text {}", shown(&subject.text_alignment)),
        format!("image {}", shown(&subject.image_alignment)),
    ];
    if !subject.is_base && subject.share.mean.is_some() {
        figures.push(format!("share {}", shown(&subject.share)));
    }
    if let Some(composition) = &subject.composition {
        figures.push(things_of(composition));
    }
    figures.join("   ")
}

/// The things of compositions, in the order of the prompt.
fn things_of(composition: &CompositionReport) -> String {
    let things: Vec<String> = composition.things.iter().map(shown).collect();
    let mut text = format!("things {}", things.join(", "));
    if composition.leak.mean.is_some() {
        text += &format!("   leak {}", shown(&composition.leak));
    }
    text
}

fn shown(estimate: &Estimate) -> String {
    estimate.mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.2}"))
}
