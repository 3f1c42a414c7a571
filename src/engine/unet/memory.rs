//! What a UNet's training step holds, counted from the config before anything is computed.
//!
//! The tape keeps the results that an operation's backward pass reads: convolutions, projections and joins keep none, norms
//! their input, GEGLU factors as wide as its projection, attention its inputs and, over many keys or on a GPU, its result. A
//! layer (a resnet with its transformer) that is computed again in the backward pass keeps its own input alone (ADR 0010).

use candle_core::DType;

use super::config::{ATTENDING_DOWN, ATTENDING_UP, UNet2DConditionConfig};
use crate::engine::ops::Workspace;

/// What a training keeps of the forward pass for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// All that the backward pass needs: the fastest.
    #[default]
    Keep,
    /// The input of each layer (a resnet with its transformer), which runs once more in the backward pass.
    Recompute,
    /// All, except in as many layers as must be recomputed for activations and gradients to fit in so many bytes.
    Within(u64),
}

/// The size of a call.
#[derive(Clone, Copy, Debug)]
pub struct CallSize {
    pub batch: usize,
    /// Of the latents.
    pub height: usize,
    pub width: usize,
    /// Of activations.
    pub dtype: DType,
    pub on_cpu: bool,
}

impl CallSize {
    /// Positions of all images at a level of resolution.
    fn positions(&self, level: usize) -> u64 {
        let along = |size: usize| (0..level).fold(size, |size, _| size.div_ceil(2));
        (self.batch * along(self.height) * along(self.width)) as u64
    }

    fn element(&self) -> u64 {
        self.dtype.size_in_bytes() as u64
    }
}

/// One layer, as far as memory goes.
#[derive(Clone, Copy, Debug)]
struct LayerSize {
    level: usize,
    in_channels: u64,
    out_channels: u64,
    /// The number of input channels that are joined from the down blocks.
    skipped: u64,
    /// Transformer blocks; 0 if the layer does not attend.
    blocks: u64,
    /// Channels inside the transformer.
    inner: u64,
    heads: u64,
    /// Whether a gradient is taken to its input: some layer before it has attended to the prompt.
    tracked: bool,
}

impl LayerSize {
    /// Bytes that the tape keeps of it.
    fn kept(&self, call: &CallSize, again: bool) -> u64 {
        match (self.tracked, again) {
            (false, true) if self.blocks == 0 => 0,
            (_, true) => self.input(call),
            (true, false) => self.input(call) + self.inside(call),
            (false, false) => self.inside(call),
        }
    }

    /// Bytes that its backward pass holds for a while, with the gradients that it passes on.
    fn work(&self, call: &CallSize) -> u64 {
        let workspace = Workspace::of(call.dtype, call.on_cpu);
        let (batch, positions) = (call.batch as u64, call.positions(self.level));
        let (wider, pixels) = (self.in_channels.max(self.out_channels), positions / batch);
        let norm =
            workspace.group_norm(batch, pixels * wider) + self.input(call) + self.output(call);
        let filters = 9 * self.in_channels * self.out_channels;
        let conv = workspace.conv(filters, batch, 9 * pixels * self.out_channels)
            + 2 * self.input(call)
            + self.output(call);
        let (mut geglu, mut attention) = (0, 0);
        if self.blocks > 0 {
            let inner = positions * self.inner * call.element();
            geglu = workspace.geglu(positions, self.inner, 8 * self.inner) + 5 * inner;
            attention = workspace.attention(batch, self.heads, pixels, pixels) + 6 * inner;
        }
        norm.max(conv).max(geglu).max(attention)
    }

    /// Bytes of its input.
    fn input(&self, call: &CallSize) -> u64 {
        call.positions(self.level) * self.in_channels * call.element()
    }

    /// Bytes of its result.
    fn output(&self, call: &CallSize) -> u64 {
        call.positions(self.level) * self.out_channels * call.element()
    }

    /// Bytes that its backward pass reads in addition to its input.
    fn inside(&self, call: &CallSize) -> u64 {
        let workspace = Workspace::of(call.dtype, call.on_cpu);
        let pixels = call.positions(self.level) / call.batch as u64;
        let of_pixels = u64::from(workspace.attention_keeps_its_result(pixels));
        let of_prompt = u64::from(workspace.attention_keeps_its_result(0)); // few tokens
        let results = of_pixels + of_prompt;
        let transformers = match (self.tracked, self.blocks) {
            (true, 0) => self.out_channels, // between the convolutions
            // ... the resnet's result and the projection of it; then per block q, k and v of both attentions (k and v
            // of the second are the prompt's), what each norm reads, and the 8-fold of GEGLU.
            (true, blocks) => 2 * self.out_channels + self.inner * ((15 + results) * blocks),
            (false, 0) => 0,
            // Nothing before the first attention to the prompt leads to what is trained.
            (false, blocks) => self.inner * (10 + of_prompt + (15 + results) * (blocks - 1)),
        };
        let attentions = if self.tracked { 2 * self.blocks } else { (2 * self.blocks).max(1) - 1 };
        let softmaxes = workspace.softmaxes(self.heads * attentions);
        call.positions(self.level) * (transformers * call.element() + softmaxes)
    }
}

/// Which layers are computed again in the backward pass, in the order of the forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recomputation(pub(super) Vec<bool>);

impl Recomputation {
    /// How many layers are computed again.
    pub fn layers(&self) -> usize {
        self.0.iter().filter(|again| **again).count()
    }
}

impl UNet2DConditionConfig {
    /// All layers, in the order of the forward pass.
    fn layer_sizes(&self) -> Vec<LayerSize> {
        let mut tracked = false;
        let mut layer = |level: usize, attends: bool, in_channels: usize, skipped: usize| {
            let channels = self.block_out_channels[level];
            let heads = self.heads(level);
            let blocks = if attends { self.transformer_layers(level) } else { 0 };
            let size = LayerSize {
                level,
                in_channels: (in_channels + skipped) as u64,
                out_channels: channels as u64,
                skipped: skipped as u64,
                blocks: blocks as u64,
                inner: (heads * (channels / heads)) as u64,
                heads: heads as u64,
                tracked,
            };
            tracked |= blocks > 0;
            size
        };
        let channels = &self.block_out_channels;
        let coarsest = self.levels() - 1;
        let mut sizes = Vec::new();
        let mut skips = vec![channels[0]];
        let mut before = channels[0];
        for (level, &of_level) in channels.iter().enumerate() {
            for _ in 0..self.layers(level) {
                let attends = self.down_block_types[level] == ATTENDING_DOWN;
                sizes.push(layer(level, attends, before, 0));
                before = of_level;
                skips.push(before);
            }
            if level < coarsest {
                skips.push(before);
            }
        }
        if self.mid_block {
            sizes.push(layer(coarsest, true, before, 0));
            sizes.push(layer(coarsest, false, before, 0));
        }
        for level in (0..self.levels()).rev() {
            for _ in 0..=self.layers(level) {
                let attends = self.up_block_types[coarsest - level] == ATTENDING_UP;
                sizes.push(layer(level, attends, before, skips.pop().unwrap_or(0)));
                before = channels[level];
            }
        }
        sizes
    }

    /// The bytes that the tape keeps of a call until the backward pass begins.
    pub fn tape_bytes(&self, call: &CallSize, recomputation: &Recomputation) -> u64 {
        let layers = self.layer_sizes();
        let kept = layers.iter().zip(&recomputation.0).map(|(size, again)| size.kept(call, *again));
        kept.sum::<u64>() + self.last_input(call)
    }

    /// Bytes of what the last norm reads.
    fn last_input(&self, call: &CallSize) -> u64 {
        call.positions(0) * self.block_out_channels[0] as u64 * call.element()
    }

    /// The most bytes that a call's activations and gradients take, in the backward pass.
    pub fn activation_bytes(&self, call: &CallSize, recomputation: &Recomputation) -> u64 {
        let mut alive = self.tape_bytes(call, recomputation);
        let mut most = alive + 3 * self.last_input(call);
        alive -= self.last_input(call);
        // Gradients of what the up blocks joined are kept until the backward pass of the down blocks.
        let mut waiting = 0;
        for (layer, again) in self.layer_sizes().iter().zip(&recomputation.0).rev() {
            let recomputed = if *again { layer.inside(call) + layer.output(call) } else { 0 };
            let passed = layer.output(call) + layer.work(call);
            most = most.max(alive + recomputed + waiting + passed);
            alive -= layer.kept(call, *again);
            waiting += call.positions(layer.level) * layer.skipped * call.element();
        }
        most
    }

    /// Computes as many layers again as it takes to stay below `budget` bytes; all, if even that is too much.
    ///
    /// What a layer keeps goes with its positions times its channels, what it costs with the square of the channels:
    /// the layers that keep most are the cheapest to compute again, byte for byte.
    pub fn recompute_within(&self, call: &CallSize, budget: u64) -> Recomputation {
        let layers = self.layer_sizes();
        let mut by_size: Vec<usize> = (0..layers.len()).collect();
        by_size.sort_by_key(|&index| std::cmp::Reverse(layers[index].inside(call)));
        let mut recomputation = Recomputation(vec![false; layers.len()]);
        for index in by_size {
            if self.activation_bytes(call, &recomputation) <= budget {
                break;
            }
            recomputation.0[index] = true;
        }
        recomputation
    }

    /// All layers, or none, computed again.
    pub fn recompute_all(&self, again: bool) -> Recomputation {
        Recomputation(vec![again; self.layer_sizes().len()])
    }

    /// Numbers of all keys and values of one token.
    pub fn projected(&self) -> u64 {
        self.layer_sizes().iter().map(|layer| 2 * layer.blocks * layer.inner).sum()
    }

    /// The number of the model's parameters.
    pub fn parameters(&self) -> u64 {
        let time = self.time_embedding_dim() as u64;
        let text = self.cross_attention_dim() as u64;
        let [c, first, last] = [self.block_out_channels[0], self.in_channels, self.out_channels]
            .map(|channels| channels as u64);
        let [kernel_in, kernel_out] =
            [self.conv_in_kernel, self.conv_out_kernel].map(|kernel| (kernel * kernel) as u64);
        let conv = |area: u64, from: u64, to: u64| area * from * to + to;
        let layer = |layer: &LayerSize| {
            let (from, to, inner) = (layer.in_channels, layer.out_channels, layer.inner);
            let shortcut = if from == to { 0 } else { conv(1, from, to) };
            let norms = 2 * from + 2 * to;
            let resnet = norms + conv(9, from, to) + conv(1, time, to) + conv(9, to, to) + shortcut;
            let attention = 4 * inner * inner + 2 * inner * text + 2 * conv(1, inner, inner);
            let block =
                6 * inner + attention + conv(1, inner, 8 * inner) + conv(1, 4 * inner, inner);
            let around = 2 * to + conv(1, to, inner) + conv(1, inner, to);
            resnet + if layer.blocks > 0 { around + layer.blocks * block } else { 0 }
        };
        let layers: u64 = self.layer_sizes().iter().map(layer).sum();
        let resampled = &self.block_out_channels;
        let downsamplers: u64 =
            resampled[..self.levels() - 1].iter().map(|&c| conv(9, c as u64, c as u64)).sum();
        let upsamplers: u64 = resampled[1..].iter().map(|&c| conv(9, c as u64, c as u64)).sum();
        conv(kernel_in, first, c)
            + conv(1, c, time)
            + conv(1, time, time)
            + layers
            + downsamplers
            + upsamplers
            + 2 * c
            + conv(kernel_out, c, last)
    }
}
