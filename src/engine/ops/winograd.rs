//! 3×3 convolution by Winograd's minimal filtering F(4×4, 3×3): 36 multiplications where the definition has 144.
//!
//! An output tile of 4×4 pixels is `Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A` for filter `g` and the 6×6 pixels `d` around it (Lavin
//! and Gray, arXiv:1509.09308). Summed over channels, each of the 36 places is a matrix product. We interpolate at 0,
//! ±3/4, ±3/2 and ∞: at the usual 0, ±1, ±2 the error is four times as large.
//!
//! Transformed filters have four times the size of the filters. Those of small layers are kept; larger ones are
//! transformed anew in each call, a block at a time next to the products that read it.

#![expect(
    clippy::needless_range_loop,
    reason = "small matrices by row and column, as the formulas have them"
)]

use std::sync::OnceLock;

use rayon::prelude::*;

use super::conv::{Geometry, Padding};
use super::cpu::{Lanes, Shared, filled, in_lanes, prefetch};
use super::product::{self, Add, Left, PANEL, Right, TILE, View, multiply_into};

/// Places of a transformed tile.
const PLACES: usize = 36;
/// Width of an output tile, and of the input tile around it.
const OUT: usize = 4;
const IN: usize = 6;
/// Most tiles of one task that has all output channels, and as many as it has before there are several tasks: filters
/// are read once for all of them.
const TILES: usize = 64;
const LEAST: usize = 32;
/// Input channels whose filters are transformed together where they are kept, and where a transformed chunk shall stay
/// in the second-level cache with the filters that are fetched for the next. Sums are cut here, whoever transforms.
const DEPTH_KEPT: usize = 128;
const DEPTH_ANEW: usize = 64;
/// Transformed filters up to this size are kept, in bytes.
const KEPT: usize = 16 << 20;

/// Numbers between the end of one place and the start of the next: at a multiple of a page from each other, all places
/// would meet in the same lines of the first-level cache.
const GAP: usize = PANEL;

/// Points of interpolation besides 0 and ∞: ±P and ±Q.
const P: f32 = 0.75;
const Q: f32 = 1.5;
const PP: f32 = P * P;
const QQ: f32 = Q * Q;

/// The filters of one layer, as far as they are kept transformed.
pub(super) struct Winograd {
    in_channels: usize,
    out_channels: usize,
    forward: OnceLock<Vec<f32>>,
    backward: OnceLock<Vec<f32>>,
}

/// Sizes of a batch of images.
#[derive(Clone, Copy)]
pub(super) struct Image {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Image {
    fn tiles_of_one(self) -> (usize, usize) {
        (self.height.div_ceil(OUT), self.width.div_ceil(OUT))
    }

    fn tiles(self) -> usize {
        let (down, across) = self.tiles_of_one();
        self.batch * down * across
    }

    /// Image, and first pixel of the output tile.
    fn place(self, tile: usize) -> (usize, usize, usize) {
        let (down, across) = self.tiles_of_one();
        let (image, tile) = (tile / (down * across), tile % (down * across));
        (image, tile / across * OUT, tile % across * OUT)
    }
}

/// One layer's filters in one direction.
#[derive(Clone, Copy)]
struct Direction<'a> {
    /// `(9 · in_channels, out_channels)` of the layer, whichever the direction.
    panels: View<'a>,
    back: bool,
    /// Channels of this direction.
    from: usize,
    to: usize,
}

impl Winograd {
    /// Whether a layer can be computed so.
    pub(super) fn suits(geometry: Geometry, in_channels: usize, out_channels: usize) -> bool {
        let Geometry { kernel, stride, padding } = geometry;
        kernel == 3
            && stride == 1
            && padding == Padding::same(1)
            && in_channels.is_multiple_of(PANEL)
            && out_channels.is_multiple_of(PANEL)
    }

    /// Whether images of this size are faster so. It must not depend on the batch: a row has the same bytes alone.
    ///
    /// A single tile pays where its filters need not be transformed anew.
    pub(super) fn pays(&self, height: usize, width: usize) -> bool {
        let least = if keeps(self.in_channels, self.out_channels) { 16 } else { 64 };
        height * width >= least
    }

    pub(super) fn new(in_channels: usize, out_channels: usize) -> Self {
        let (forward, backward) = (OnceLock::new(), OnceLock::new());
        Self { in_channels, out_channels, forward, backward }
    }

    /// `(batch, h, w, in_channels)` → `(batch, h, w, out_channels)`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        image: Image,
        panels: View<'_>,
        add: Add<'_>,
        y: &mut [f32],
    ) {
        let (from, to) = (self.in_channels, self.out_channels);
        let way = Direction { panels, back: false, from, to };
        convolve(x, image, way, &self.forward, add, y);
    }

    /// `(batch, h, w, out_channels)` → `(batch, h, w, in_channels)`, the gradient.
    pub(super) fn backward(&self, dy: &[f32], image: Image, panels: View<'_>, dx: &mut [f32]) {
        let (from, to) = (self.out_channels, self.in_channels);
        let way = Direction { panels, back: true, from, to };
        convolve(dy, image, way, &self.backward, Add::default(), dx);
    }
}

/// Whether the transformed filters of a layer are kept.
fn keeps(in_channels: usize, out_channels: usize) -> bool {
    PLACES * in_channels * out_channels * std::mem::size_of::<f32>() <= KEPT
}

fn convolve(
    x: &[f32],
    image: Image,
    way: Direction<'_>,
    kept: &OnceLock<Vec<f32>>,
    add: Add<'_>,
    y: &mut [f32],
) {
    let (tiles, threads) = (image.tiles(), rayon::current_num_threads());
    let keep = keeps(way.from, way.to);
    let place = Shared::new(y);
    if keep || tiles >= 2 * TILES * threads {
        let anew;
        let filters = if keep {
            kept.get_or_init(|| way.transform_all())
        } else {
            anew = way.transform_all();
            &anew
        };
        // Each task has some tiles and all channels; its share stays in the second-level cache.
        let count = tiles.div_ceil(tiles.div_ceil(TILES).max(threads.min(tiles.div_ceil(LEAST))));
        let task = |task: usize| {
            let range = task * count..tiles.min((task + 1) * count);
            if range.is_empty() {
                return;
            }
            let transformed = transform_tiles(x, image, range.clone(), way.from);
            for column in (0..way.to).step_by(TILE) {
                let block = &filters[column / TILE * way.block()..];
                let products = way.multiply(&transformed, range.len(), column, Source::Kept(block));
                // SAFETY: tasks have different tiles.
                unsafe { store_tiles(&products, image, range.clone(), way.to, column, add, place) };
            }
        };
        (0..tiles.div_ceil(count)).into_par_iter().for_each(task);
    } else {
        // Each task has some output channels and all tiles, and transforms its filters on the way.
        let group = 4 * TILES;
        for first in (0..tiles).step_by(group) {
            let range = first..tiles.min(first + group);
            let transformed = transform_tiles(x, image, range.clone(), way.from);
            (0..way.to.div_ceil(TILE)).into_par_iter().for_each(|task| {
                let column = task * TILE;
                let products = way.multiply(&transformed, range.len(), column, Source::Anew);
                // SAFETY: tasks have different channels.
                unsafe { store_tiles(&products, image, range.clone(), way.to, column, add, place) };
            });
        }
    }
}

/// Where transformed filters come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Of one block of columns.
    Kept(&'a [f32]),
    Anew,
}

impl Direction<'_> {
    /// Channels that are transformed together.
    fn depth(&self) -> usize {
        if keeps(self.from, self.to) { DEPTH_KEPT } else { DEPTH_ANEW }
    }

    /// Numbers of such a chunk, for a whole [`TILE`] of columns.
    fn chunk(&self) -> usize {
        PLACES * (self.depth() * TILE + GAP)
    }

    /// Numbers of the transformed filters of a block of columns.
    fn block(&self) -> usize {
        self.from.div_ceil(self.depth()) * self.chunk()
    }

    /// All filters: for each [`TILE`] of columns, for each chunk of channels, for each place, panels.
    fn transform_all(&self) -> Vec<f32> {
        filled(self.to.div_ceil(TILE) * self.block(), |all| {
            all.par_chunks_mut(self.block()).enumerate().for_each(|(index, block)| {
                let columns = TILE.min(self.to - index * TILE);
                for (chunk, to) in block.chunks_mut(self.chunk()).enumerate() {
                    let first = chunk * self.depth();
                    let depth = self.depth().min(self.from - first);
                    self.transform(index * TILE, columns, first, depth, to);
                }
            });
        })
    }

    /// Filters of some columns and some channels: for each place, panels `(depth, PANEL)`.
    fn transform(&self, column: usize, columns: usize, first: usize, depth: usize, to: &mut [f32]) {
        let (panels, stride) = (columns / PANEL, depth * columns + GAP);
        for panel in 0..panels {
            let place = panel * depth * PANEL;
            if self.back {
                let lanes = column + panel * PANEL;
                for at in (0..depth).step_by(PANEL) {
                    let square = self.turned(first + at, lanes);
                    transform_filters(
                        square.as_flattened(),
                        PANEL,
                        &mut to[place + at * PANEL..],
                        stride,
                        PANEL,
                    );
                }
            } else {
                let index = column / PANEL + panel;
                let source = &self.panels.data[index * self.panels.depth * PANEL..];
                let source = &source[first * PANEL..];
                transform_filters(source, self.from, &mut to[place..], stride, depth);
            }
        }
    }

    /// Has the filters of two channels fetched that the next block transforms, while the products keep the memory idle.
    fn fetch(&self, column: usize, columns: usize, channel: usize) {
        let lanes = self.panels.depth * PANEL;
        for panel in 0..columns / PANEL {
            for position in 0..9 {
                // Backwards, sixteen channels are lanes of one panel, and rows of it the columns.
                let start = if self.back {
                    let row = position * self.to + column + panel * PANEL + channel % PANEL;
                    channel / PANEL * lanes + row * PANEL
                } else {
                    let row = position * self.from + channel;
                    (column / PANEL + panel) * lanes + row * PANEL
                };
                prefetch(&self.panels.data[start..start + 2 * PANEL]);
            }
        }
    }

    /// Filters from output channels `first..` to input channels `lanes..`, sixteen of each, turned by 180°.
    fn turned(&self, first: usize, lanes: usize) -> Box<[[f32; PANEL]; 9 * PANEL]> {
        let mut square = Box::new([[0.0; PANEL]; 9 * PANEL]);
        let panel = &self.panels.data[first / PANEL * self.panels.depth * PANEL..];
        for (position, to) in square.chunks_exact_mut(PANEL).enumerate() {
            let from = &panel[((8 - position) * self.to + lanes) * PANEL..][..PANEL * PANEL];
            product::transpose(from.as_chunks().0, 0, to);
        }
        square
    }

    /// The 36 products of `tiles` transformed tiles with the filters of a block of columns.
    fn multiply(
        &self,
        transformed: &[f32],
        tiles: usize,
        column: usize,
        source: Source<'_>,
    ) -> Vec<f32> {
        let columns = TILE.min(self.to - column);
        let mut anew = Vec::new();
        if matches!(source, Source::Anew) {
            anew = filled(self.chunk(), |_| {});
        }
        filled(PLACES * (tiles * TILE + GAP), |products| {
            for first in (0..self.from).step_by(self.depth()) {
                let depth = self.depth().min(self.from - first);
                let mut next = 0..0; // channels to be fetched, two at a time
                let filters = match source {
                    Source::Kept(filters) => &filters[first / self.depth() * self.chunk()..],
                    Source::Anew => {
                        self.transform(column, columns, first, depth, &mut anew);
                        next = first + depth..self.from.min(first + 2 * depth);
                        &anew
                    }
                };
                let mut next = next.step_by(2);
                for place in 0..PLACES {
                    if let Some(channel) = next.next() {
                        self.fetch(column, columns, channel);
                    }
                    let data = &transformed[place * (tiles * self.from + GAP) + first..];
                    let left =
                        Left::Strided { data, rows: tiles, row_stride: self.from, depth_stride: 1 };
                    let data = &filters[place * (depth * columns + GAP)..];
                    let right = Right::Panels(View { data, depth, width: columns });
                    let add = Add { present: first > 0, ..Add::default() };
                    let to = &mut products[place * (tiles * TILE + GAP)..][..tiles * TILE];
                    // SAFETY: `to` has a row of `TILE` numbers for each tile.
                    unsafe { multiply_into(left, right, add, 0..columns, to.as_mut_ptr(), TILE) };
                }
            }
        })
    }
}

/// `Bᵀ d`, six numbers.
#[inline(always)]
fn input_transform<L: Lanes>(d: [L; IN]) -> [L; IN] {
    let (even_p, odd_p) = (d[4] - d[2] * QQ, (d[3] - d[1] * QQ) * P);
    let (even_q, odd_q) = (d[4] - d[2] * PP, (d[3] - d[1] * PP) * Q);
    [
        d[0] * (PP * QQ) - d[2] * (PP + QQ) + d[4],
        even_p + odd_p,
        even_p - odd_p,
        even_q + odd_q,
        even_q - odd_q,
        d[1] * (PP * QQ) - d[3] * (PP + QQ) + d[5],
    ]
}

/// `G g`, six of three numbers.
#[inline(always)]
fn filter_transform<L: Lanes>(g: [L; 3]) -> [L; IN] {
    const OF_P: f32 = 1.0 / (2.0 * PP * (PP - QQ));
    const OF_Q: f32 = 1.0 / (2.0 * QQ * (QQ - PP));
    let (even_p, odd_p) = (g[0] * OF_P + g[2] * (PP * OF_P), g[1] * (P * OF_P));
    let (even_q, odd_q) = (g[0] * OF_Q + g[2] * (QQ * OF_Q), g[1] * (Q * OF_Q));
    [g[0] * (1.0 / (PP * QQ)), even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, g[2]]
}

/// `Aᵀ m`, four of six numbers.
#[inline(always)]
fn output_transform<L: Lanes>(m: [L; IN]) -> [L; OUT] {
    let (sum_p, sum_q) = (m[1] + m[2], m[3] + m[4]);
    let (difference_p, difference_q) = ((m[1] - m[2]) * P, (m[3] - m[4]) * Q);
    [
        m[0] + sum_p + sum_q,
        difference_p + difference_q,
        sum_p * PP + sum_q * QQ,
        difference_p * PP + difference_q * QQ + m[5],
    ]
}

/// `Bᵀ d B` of some tiles: for each place, `(tiles, channels)`.
fn transform_tiles(
    x: &[f32],
    image: Image,
    tiles: std::ops::Range<usize>,
    channels: usize,
) -> Vec<f32> {
    let count = tiles.len();
    filled(PLACES * (count * channels + GAP), |transformed| {
        let to = Shared::new(transformed);
        let task = |index: usize| {
            let tile = tiles.start + index;
            let stride = count * channels + GAP;
            transform_tile(x, image, tile, channels, to.at(index * channels), stride);
        };
        if count > TILES {
            (0..count).into_par_iter().with_min_len(8).for_each(task);
        } else {
            (0..count).for_each(task);
        }
    })
}

in_lanes! {
    /// Writes to `to + place · stride`, which the caller has to itself.
    fn transform_tile<L>(x: &[f32], image: Image, tile: usize, channels: usize, to: *mut f32, stride: usize) {
        let (at, y, x_) = image.place(tile);
        let Image { height, width, .. } = image;
        // Where the pixels of the input tile begin; it reaches one pixel beyond the output tile on each side.
        let mut starts = [[usize::MAX; IN]; IN];
        for row in 0..IN {
            for column in 0..IN {
                if (1..=height).contains(&(y + row)) && (1..=width).contains(&(x_ + column)) {
                    starts[row][column] =
                        ((at * height + y + row - 1) * width + x_ + column - 1) * channels;
                }
            }
        }
        let mut half = [[L::ZERO; IN]; IN];
        for channel in (0..channels).step_by(PANEL) {
            for column in 0..IN {
                let mut d = [L::ZERO; IN];
                for row in 0..IN {
                    if starts[row][column] != usize::MAX {
                        d[row] = L::load(&x[starts[row][column] + channel..]);
                    }
                }
                let transformed = input_transform(d);
                for row in 0..IN {
                    half[row][column] = transformed[row];
                }
            }
            for row in 0..IN {
                let transformed = input_transform(half[row]);
                for column in 0..IN {
                    let to = to.wrapping_add((row * IN + column) * stride + channel);
                    // SAFETY: `to` has room for the channels of each of the 36 places.
                    transformed[column].store(unsafe { std::slice::from_raw_parts_mut(to, PANEL) });
                }
            }
        }
    }
}

in_lanes! {
    /// `G g Gᵀ` of sixteen filters for each of `depth` channels: nine rows of a channel lie `between` rows apart.
    fn transform_filters<L>(from: &[f32], between: usize, to: &mut [f32], stride: usize, depth: usize) {
        let mut half = [[L::ZERO; 3]; IN];
        for channel in 0..depth {
            for column in 0..3 {
                let mut g = [L::ZERO; 3];
                for row in 0..3 {
                    g[row] = L::load(&from[((row * 3 + column) * between + channel) * PANEL..]);
                }
                let transformed = filter_transform(g);
                for row in 0..IN {
                    half[row][column] = transformed[row];
                }
            }
            for row in 0..IN {
                let transformed = filter_transform(half[row]);
                for column in 0..IN {
                    transformed[column].store(&mut to[(row * IN + column) * stride + channel * PANEL..]);
                }
            }
        }
    }
}

/// `Aᵀ m A` of the products of some tiles, into columns `column..` of the image.
///
/// # Safety
/// Nothing else may touch these pixels' columns of `to`, `(batch, height, width, channels)`.
unsafe fn store_tiles(
    products: &[f32],
    image: Image,
    tiles: std::ops::Range<usize>,
    channels: usize,
    column: usize,
    add: Add<'_>,
    to: Shared,
) {
    let stride = tiles.len() * TILE + GAP;
    for tile in tiles.clone() {
        let products = &products[(tile - tiles.start) * TILE..];
        store_tile(products, stride, image, tile, (channels, column), add, to);
    }
}

in_lanes! {
    /// As [`store_tiles`], of one tile.
    fn store_tile<L>(products: &[f32], stride: usize, image: Image, tile: usize, columns: (usize, usize), add: Add<'_>, to: Shared) {
        let (channels, column) = columns;
        let (at, y, x) = image.place(tile);
        let Image { height, width, .. } = image;
        let (rows, across) = (OUT.min(height - y), OUT.min(width - x));
        let mut half = [[L::ZERO; IN]; OUT];
        for lane in (0..TILE.min(channels - column)).step_by(PANEL) {
            for i in 0..IN {
                let mut m = [L::ZERO; IN];
                for row in 0..IN {
                    m[row] = L::load(&products[(row * IN + i) * stride + lane..]);
                }
                let transformed = output_transform(m);
                for row in 0..OUT {
                    half[row][i] = transformed[row];
                }
            }
            let bias = match add.per_column {
                Some(bias) => L::load(&bias[column + lane..]),
                None => L::ZERO,
            };
            for row in 0..OUT {
                let transformed = output_transform(half[row]);
                if row >= rows {
                    break;
                }
                for i in 0..OUT {
                    if i >= across {
                        break;
                    }
                    let pixel = ((at * height + y + row) * width + x + i) * channels + column + lane;
                    let mut value = transformed[i] + bias;
                    if let Some((other, _)) = add.matrix {
                        value = value + L::load(&other[pixel..]);
                    }
                    // SAFETY: the pixel lies inside the image; its columns are this task's.
                    value.store(unsafe { std::slice::from_raw_parts_mut(to.at(pixel), PANEL) });
                }
            }
        }
    }
}
