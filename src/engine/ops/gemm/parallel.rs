//! Products shared out among the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::blocking::{MR, NR};
use super::epilogue::Epilogue;
use super::factor::{Left, Right};
use super::serial::{gemm, gemm_columns};
use crate::engine::ops::buffer::SharedPtr;

/// Products smaller than this are not worth another thread.
const SMALL: usize = 1 << 19;
/// Multiplications that a task should have at least, some twenty microseconds' work.
const TASK: usize = 1 << 21;

/// [`gemm`] of row-major rows, shared out among the threads.
pub(crate) fn par_gemm_rows(a: &[f32], b: Right<'_>, epilogue: Epilogue<'_>, c: &mut [f32]) {
    par_gemm(Left::rows(a, b.depth()), b, epilogue, c);
}

/// [`gemm`] of a strided factor, shared out among the threads; the rows of `c` lie one after the other.
pub(crate) fn par_gemm(a: Left<'_>, b: Right<'_>, epilogue: Epilogue<'_>, c: &mut [f32]) {
    let (depth, width) = (b.depth(), b.width());
    let rows = a.count();
    assert!(c.len() >= rows * width, "the product does not fit");
    if rows * depth * width < SMALL {
        return gemm(a, b, epilogue, c, width);
    }
    // Turning costs as much as multiplying some six rows: whoever turns takes as many rows as there are.
    let most = match b {
        Right::Packed(_) | Right::Rows { .. } => 192,
        Right::Transposed { .. } => 512,
    };
    let step = (TASK / (rows.min(most) * depth * NR)).max(1) * NR;
    let place = SharedPtr::new(c);
    par_blocks((rows, width), (most, step), |rows, columns| {
        let addend =
            epilogue.addend.map(|(values, stride)| (&values[rows.start * stride..], stride));
        // SAFETY: tasks write to different rows or columns of `c`, all inside it.
        unsafe {
            let c = place.at(rows.start * width);
            let a = a.part(rows.start, rows.len());
            gemm_columns(a, b, Epilogue { addend, ..epilogue }, columns, c, width);
        }
    });
}

/// Cuts a matrix of `rows` and `columns` into enough parts that no thread waits long for the last one: at most `most` rows
/// each, and columns by multiples of `step`.
pub(crate) fn par_blocks(
    (rows, columns): (usize, usize),
    (most, step): (usize, usize),
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let rows_of_task = rows.div_ceil(rows.div_ceil(most)).next_multiple_of(MR);
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
