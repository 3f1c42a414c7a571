//! Products shared out among the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::blocking::{ROWS, TILE};
use super::epilogue::Add;
use super::factor::{Left, Right};
use super::serial::{multiply, multiply_into};
use crate::engine::ops::buffer::Shared;

/// Products smaller than this are not worth another thread.
const SMALL: usize = 1 << 19;
/// Multiplications that a task should have at least, some twenty microseconds' work.
const TASK: usize = 1 << 21;

/// [`multiply`] of row-major rows, shared out among the threads.
pub(crate) fn multiply_rows(a: &[f32], b: Right<'_>, add: Add<'_>, c: &mut [f32]) {
    multiply_shared(Left::rows(a, b.depth()), b, add, c);
}

/// [`multiply`] of a strided factor, shared out among the threads; the rows of `c` lie one after the other.
pub(crate) fn multiply_shared(a: Left<'_>, b: Right<'_>, add: Add<'_>, c: &mut [f32]) {
    let (depth, width) = (b.depth(), b.width());
    let rows = a.count();
    assert!(c.len() >= rows * width, "the product does not fit");
    if rows * depth * width < SMALL {
        return multiply(a, b, add, c, width);
    }
    // Turning costs as much as multiplying some six rows: whoever turns takes as many rows as there are.
    let most = match b {
        Right::Panels(_) | Right::Rows { .. } => 192,
        Right::Columns { .. } => 512,
    };
    let step = (TASK / (rows.min(most) * depth * TILE)).max(1) * TILE;
    let place = Shared::new(c);
    share_out((rows, width), (most, step), |rows, columns| {
        let matrix = add.matrix.map(|(values, stride)| (&values[rows.start * stride..], stride));
        // SAFETY: tasks write to different rows or columns of `c`, all inside it.
        unsafe {
            let c = place.at(rows.start * width);
            let a = a.part(rows.start, rows.len());
            multiply_into(a, b, Add { matrix, ..add }, columns, c, width);
        }
    });
}

/// Cuts a matrix of `rows` and `columns` into enough parts that no thread waits long for the last one: at most `most` rows
/// each, and columns by multiples of `step`.
pub(crate) fn share_out(
    (rows, columns): (usize, usize),
    (most, step): (usize, usize),
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let rows_of_task = rows.div_ceil(rows.div_ceil(most)).next_multiple_of(ROWS);
    let row_tasks = rows.div_ceil(rows_of_task);
    let wanted = (16 * rayon::current_num_threads()).div_ceil(row_tasks);
    let columns_of_task = columns.div_ceil(wanted).next_multiple_of(step);
    let column_tasks = columns.div_ceil(columns_of_task);
    (0..row_tasks * column_tasks).into_par_iter().for_each(|index| {
        let row = index / column_tasks * rows_of_task;
        let column = index % column_tasks * columns_of_task;
        task(row..rows.min(row + rows_of_task), column..columns.min(column + columns_of_task));
    });
}
