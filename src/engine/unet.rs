//! The denoiser of Stable Diffusion, as a function of latents, timesteps and K/V.

mod blocks;
mod config;
mod cross_attention;
mod embeddings;
mod memory;
mod resnet;
mod transformer;
mod watch;

use std::cell::Cell;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Tensor};

use self::{
    blocks::{Call, DownBlock, MidBlock, UpBlock},
    embeddings::TimestepEmbedding,
    watch::Watch,
};
use super::{
    autograd::Variable,
    error::{EngineError, Result},
    key_values::{KeyValue, KeyValues},
    layers::{conv_same, group_norm},
    ops::{self, FrozenConv2d, GroupNorm, TrainingCopies},
    split::Split,
    weights::WeightFiles,
};

pub use config::UNet2DConditionConfig;
pub use cross_attention::{CrossAttentionKv, KeyValueVariable};
pub use memory::{Activations, CallSize, Recomputation};
pub use watch::{ElementAttention, LayerAttention, Watched};

/// Predicts the noise (or v) in `noisy_latents`.
///
/// `h₀ = conv_in(x)`; every down block keeps its results; `mid`; every up block reads one kept result per resnet,
/// joined to its input along the channels; last `conv_out(silu(norm(h)))`.
/// It never sees text or deltas: K and V of its cross-attention layers come in as [`KeyValues`], one per element.
///
/// | weight                                         | shape, with `c = block_out_channels`          |
/// |------------------------------------------------|-----------------------------------------------|
/// | `conv_in.weight`, `.bias`                      | `(c₀, in_channels, 3, 3)`, `(c₀,)`            |
/// | `time_embedding.linear_{1,2}`                  | see `TimestepEmbedding`                       |
/// | `down_blocks.N.*`, `up_blocks.N.*`, `mid_block.*` | see `unet/blocks.rs`                            |
/// | `conv_norm_out.weight`, `.bias`                | `(c₀,)`                                       |
/// | `conv_out.weight`, `.bias`                     | `(out_channels, c₀, 3, 3)`, `(out_channels,)` |
pub struct UNet2DConditionModel {
    config: UNet2DConditionConfig,
    conv_in: FrozenConv2d,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: FrozenConv2d,
    cross_attention: Vec<CrossAttentionKv>,
    dtype: DType,
    split: Split,
    copies: TrainingCopies,
}

impl UNet2DConditionModel {
    /// Reads the config and takes the weights.
    pub fn load(dir: &Path, files: &WeightFiles) -> Result<Self> {
        let config = UNet2DConditionConfig::read(&dir.join("config.json"))?;
        let weights = files.root();
        let channels = config.block_out_channels[0];
        let (eps, groups) = (config.norm_eps, config.norm_num_groups);

        // In the order in which diffusers registers them: down, up, mid. It is the order of all lists of layers.
        let mut cross_attention = Vec::new();
        let down_blocks = (0..config.levels())
            .map(|i| {
                DownBlock::load(&config, i, &weights.at("down_blocks").at(i), &mut cross_attention)
            })
            .collect::<Result<_>>()?;
        let up_blocks = (0..config.levels())
            .map(|i| {
                UpBlock::load(&config, i, &weights.at("up_blocks").at(i), &mut cross_attention)
            })
            .collect::<Result<_>>()?;
        let mid_block = match config.mid_block {
            true => Some(MidBlock::load(&config, &weights.at("mid_block"), &mut cross_attention)?),
            false => None,
        };
        let model = Self {
            conv_in: conv_same(
                &weights.at("conv_in"),
                (channels, config.in_channels),
                config.conv_in_kernel,
            )?,
            time_embedding: TimestepEmbedding::load(&config, &weights.at("time_embedding"))?,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: group_norm(&weights.at("conv_norm_out"), channels, groups, eps)?,
            conv_out: conv_same(
                &weights.at("conv_out"),
                (config.out_channels, channels),
                config.conv_out_kernel,
            )?,
            cross_attention,
            dtype: files.dtype(),
            split: Split::of(files),
            copies: files.training_copies().clone(),
            config,
        };
        Ok(model)
    }

    /// Predicts one denoising direction per element of the batch.
    ///
    /// - `noisy_latents`: `(batch, in_channels, height, width)`, any height and width
    /// - `timesteps`: one per element
    /// - `key_values`: of `batch` elements
    /// - returns `(batch, out_channels, height, width)` in the type of `noisy_latents`
    pub fn forward(
        &self,
        noisy_latents: &Tensor,
        timesteps: &[f32],
        key_values: &KeyValues,
    ) -> Result<Tensor> {
        Ok(self.forward_watched(noisy_latents, timesteps, key_values, &[])?.0)
    }

    /// The same, and what some elements attend to, in their order.
    ///
    /// - `watched`: in the order of their places in the batch
    pub fn forward_watched(
        &self,
        noisy_latents: &Tensor,
        timesteps: &[f32],
        key_values: &KeyValues,
        watched: &[Watched],
    ) -> Result<(Tensor, Vec<ElementAttention>)> {
        self.check(noisy_latents, timesteps, key_values)?;
        let kept = self.config.recompute_all(false);
        let predict = |range: Range<usize>| -> Result<(Tensor, Vec<ElementAttention>)> {
            let watch = watch_in(&range, watched);
            let elements = |x: &Tensor| x.narrow(0, range.start, range.len());
            let key_values = key_values
                .layers
                .iter()
                .map(|kv| {
                    Ok(KeyValueVariable {
                        key: elements(&kv.key)?.into(),
                        value: elements(&kv.value)?.into(),
                        watch: watch.clone(),
                    })
                })
                .collect::<Result<_>>()?;
            let latents = elements(noisy_latents)?.permute((0, 2, 3, 1))?.contiguous()?;
            let timesteps = &timesteps[range.clone()];
            let predicted = self.trace(&latents, timesteps, key_values, &kept)?;
            let predicted = predicted.tensor().permute((0, 3, 1, 2))?.contiguous()?;
            Ok((predicted, watch.map_or_else(Vec::new, |watch| watch.take())))
        };
        let (parts, seen): (Vec<Tensor>, Vec<Vec<ElementAttention>>) =
            self.split.map(timesteps.len(), predict)?.into_iter().unzip();
        let predicted = Tensor::cat(&parts, 0)?.to_dtype(noisy_latents.dtype())?;
        Ok((predicted, seen.concat()))
    }

    /// [`Self::forward`] with a backward pass to K and V.
    ///
    /// - `noisy_latents`: `(batch, height, width, in_channels)`
    /// - `key_values`: one for each of [`Self::cross_attention`]
    /// - `recomputation`: of [`Self::recomputation`]
    /// - returns `(batch, height, width, out_channels)`, in the compute type
    pub fn trace(
        &self,
        noisy_latents: &Tensor,
        timesteps: &[f32],
        key_values: Vec<KeyValueVariable>,
        recomputation: &Recomputation,
    ) -> Result<Variable> {
        // Every resnet begins with SiLU of the time embedding: it is taken once.
        let embedding = ops::silu(&self.time_embedding.forward(timesteps)?)?; // (batch, time_dim)
        let embedding = embedding.into_tensor().to_dtype(self.dtype)?.into();
        let call = Call { embedding, key_values, recomputation, layer: Cell::new(0) };

        let latents = noisy_latents.to_dtype(self.dtype)?;
        let mut hidden_states = self.conv_in.forward(&latents.into())?; // (batch, h, w, c₀)
        let mut skips = vec![hidden_states.clone()];
        for block in &self.down_blocks {
            hidden_states = block.forward(&hidden_states, &call, &mut skips)?;
        }
        if let Some(block) = &self.mid_block {
            hidden_states = block.forward(&hidden_states, &call)?;
        }
        for block in &self.up_blocks {
            hidden_states = block.forward(&hidden_states, &call, &mut skips)?;
        }
        let hidden_states = self.conv_norm_out.forward_silu(&hidden_states)?; // (batch, h, w, c₀)
        Ok(self.conv_out.forward(&hidden_states)?)
    }

    /// Which layers a training step computes again.
    ///
    /// - `latents`: `(batch, in_channels, height, width)`, of all elements of the step
    pub fn recomputation(
        &self,
        activations: Activations,
        latents: &Tensor,
    ) -> Result<Recomputation> {
        Ok(match activations {
            Activations::Keep => self.config.recompute_all(false),
            Activations::Recompute => self.config.recompute_all(true),
            Activations::Within(budget) => {
                self.config.recompute_within(&self.call_size(latents)?, budget)
            }
        })
    }

    /// The size of a call with these latents, `(batch, in_channels, height, width)`.
    pub fn call_size(&self, latents: &Tensor) -> Result<CallSize> {
        let (batch, _, height, width) = latents.dims4()?;
        let on_cpu = latents.device().is_cpu();
        Ok(CallSize { batch, height, width, dtype: self.dtype, on_cpu })
    }

    /// The copies of its weights that a training keeps.
    pub fn training_copies(&self) -> &TrainingCopies {
        &self.copies
    }

    /// How the elements of a batch are divided among the threads.
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    /// The layers that K and V belong to, in the order of [`KeyValues::layers`].
    pub fn cross_attention(&self) -> &[CrossAttentionKv] {
        &self.cross_attention
    }

    /// K and V of the base model for encoded prompts.
    ///
    /// - `encoder_hidden_states`: `(batch, tokens, cross_attention_dim)`
    pub fn project(&self, encoder_hidden_states: &Tensor) -> Result<KeyValues> {
        let text = encoder_hidden_states.to_dtype(self.dtype)?.into();
        let project = |layer: &CrossAttentionKv| -> Result<KeyValue> {
            Ok(KeyValue {
                key: layer.frozen_k.forward(&text)?.into_tensor(),
                value: layer.frozen_v.forward(&text)?.into_tensor(),
            })
        };
        Ok(KeyValues { layers: self.cross_attention.iter().map(project).collect::<Result<_>>()? })
    }

    /// The published config.
    pub fn config(&self) -> &UNet2DConditionConfig {
        &self.config
    }

    /// The type of activations, and of K and V.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    fn check(
        &self,
        noisy_latents: &Tensor,
        timesteps: &[f32],
        key_values: &KeyValues,
    ) -> Result<()> {
        let (batch, channels, _, _) = noisy_latents.dims4()?;
        let complain = |text: String| Err(EngineError::InvalidInput(text));
        if channels != self.config.in_channels {
            return complain(format!(
                "latents have {channels} channels, the model {}",
                self.config.in_channels
            ));
        }
        if timesteps.len() != batch {
            return complain(format!("{} timesteps for {batch} elements", timesteps.len()));
        }
        if key_values.layers.len() != self.cross_attention.len() {
            let (given, wanted) = (key_values.layers.len(), self.cross_attention.len());
            return complain(format!("a conditioning of {given} layers for a model of {wanted}"));
        }
        for kv in &key_values.layers {
            let elements = kv.key.dim(0)?;
            if elements != batch {
                return complain(format!(
                    "a conditioning of {elements} elements for {batch} elements of latents"
                ));
            }
        }
        Ok(())
    }
}

/// A watch over the elements of a part of the batch; `None` if none of them is watched.
fn watch_in(range: &Range<usize>, watched: &[Watched]) -> Option<Watch> {
    let inside = watched.iter().filter(|watched| range.contains(&watched.element));
    let inside: Vec<Watched> = inside
        .map(|Watched { element, groups }| Watched {
            element: element - range.start,
            groups: groups.clone(),
        })
        .collect();
    (!inside.is_empty()).then(|| Watch::new(inside))
}
