//! Products on all threads.

use std::ops::Range;

use rayon::prelude::*;

use super::blocking::{MR, NR};
use super::epilogue::Epilogue;
use super::factor::{Left, Right};
use super::pairs::paired;
use super::serial::{gemm, gemm_columns};
use crate::engine::ops::buffer::SharedPtr;

/// Multiplications of a product that one thread computes alone.
const SMALL: usize = 1 << 19;
/// Least multiplications of one task: about twenty microseconds' work.
const TASK: usize = 1 << 21;
/// Tasks of each thread with which none waits long for the last one.
const TASKS_OF_A_THREAD: usize = 8;
/// Least rows for which a task's columns are worth reading.
const LEAST_ROWS: usize = 96;

/// [`gemm()`] on all threads, of floats in row-major order without gaps.
pub(crate) fn par_gemm_rows(a: &[f32], b: Right<'_>, epilogue: Epilogue<'_>, c: &mut [f32]) {
    par_gemm(Left::rows(&paired(a, b), b.depth()), b, epilogue, c);
}

/// [`gemm()`] on all threads, of a strided `a`; the rows of `c` have no gaps.
pub(crate) fn par_gemm(a: Left<'_>, b: Right<'_>, epilogue: Epilogue<'_>, c: &mut [f32]) {
    par_gemm_then(a, b, epilogue, c, |_| {});
}

/// [`par_gemm_rows`], each value of which `finish` replaces while it is in the cache. It sees some columns of one row, or
/// several rows.
pub(crate) fn par_gemm_rows_then(
    a: &[f32],
    b: Right<'_>,
    epilogue: Epilogue<'_>,
    c: &mut [f32],
    finish: impl Fn(&mut [f32]) + Sync,
) {
    par_gemm_then(Left::rows(&paired(a, b), b.depth()), b, epilogue, c, finish);
}

fn par_gemm_then(
    a: Left<'_>,
    b: Right<'_>,
    epilogue: Epilogue<'_>,
    c: &mut [f32],
    finish: impl Fn(&mut [f32]) + Sync,
) {
    let (depth, width) = (b.depth(), b.width());
    let rows = a.count();
    assert!(c.len() >= rows * width, "the product does not fit");
    if rows * depth * width < SMALL {
        gemm(a, b, epilogue, c, width);
        return finish(&mut c[..rows * width]);
    }
    // Transposing a micro-panel costs as much as multiplying it by some six rows, so it is used for many of them.
    let max_rows = match b {
        Right::Packed(_) | Right::Rows { .. } => 384,
        Right::Transposed { .. } | Right::TransposedPanels { .. } => 512,
    };
    let step = (TASK / (rows.min(max_rows) * depth * NR)).max(1) * NR;
    // Where the columns make few tasks, the rows are cut into shorter ones, of at least half of that work.
    let column_tasks = width.div_ceil(step);
    let wanted = (TASKS_OF_A_THREAD * rayon::current_num_threads()).div_ceil(column_tasks);
    let most = (rows / LEAST_ROWS).min(2 * (rows * depth * width) / (TASK * column_tasks)).max(1);
    let max_rows = max_rows.min(rows.div_ceil(wanted.min(most)));
    let place = SharedPtr::new(c);
    par_blocks((rows, width), (max_rows, step), |rows, columns| {
        let addend =
            epilogue.addend.map(|(values, stride)| (&values[rows.start * stride..], stride));
        // SAFETY: tasks write to disjoint blocks of `c`, all inside it.
        unsafe {
            let c = place.at(rows.start * width);
            let a = a.part(rows.start, rows.len());
            let (start, count) = (columns.start, columns.len());
            gemm_columns(a, b, Epilogue { addend, ..epilogue }, columns, c, width);
            for row in rows {
                finish(std::slice::from_raw_parts_mut(place.at(row * width + start), count));
            }
        }
    });
}

/// Runs `task` on blocks of a matrix, in parallel: at most `max_rows` rows each, and columns by multiples of `step`.
///
/// There are enough blocks that no thread waits long for the last one.
pub(crate) fn par_blocks(
    (rows, columns): (usize, usize),
    (max_rows, step): (usize, usize),
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let rows_of_task = rows.div_ceil(rows.div_ceil(max_rows)).next_multiple_of(MR);
    let row_tasks = rows.div_ceil(rows_of_task);
    let wanted = (16 * rayon::current_num_threads()).div_ceil(row_tasks);
    let columns_of_task = columns.div_ceil(wanted).next_multiple_of(step);
    let column_tasks = columns.div_ceil(columns_of_task);
    (0..row_tasks * column_tasks).into_par_iter().with_max_len(1).for_each(|index| {
        let row = index / column_tasks * rows_of_task;
        let column = index % column_tasks * columns_of_task;
        task(row..rows.min(row + rows_of_task), column..columns.min(column + columns_of_task));
    });
}
