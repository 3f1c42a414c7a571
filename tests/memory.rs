//! What a training step has alive, counted by the allocator, against what is counted from the config.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use vstar::domain::training::TrainingRecipe;
use vstar::engine::autograd::Tape;
use vstar::engine::clip::ClipTextConfig;
use vstar::engine::ops::Precision;
use vstar::engine::unet::{
    Activations, CallSize, KeyValueVariable, Recomputation, UNet2DConditionConfig,
    UNet2DConditionModel,
};
use vstar::engine::weights::WeightFiles;
use vstar::engine::{BaseModel, Batch, FrozenModel, Method, Parameters, StepMemory, Trainer};

/// Counts the bytes that are alive, and the most that have been.
struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let alive = ALIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        MOST.fetch_max(alive, SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test counts at a time, on one thread.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Fails if it was built before.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    turn
}

fn alive() -> usize {
    ALIVE.load(SeqCst)
}

/// The most bytes beyond those alive now that `f` has alive.
fn most_of<T>(f: impl FnOnce() -> T) -> (usize, T) {
    let before = alive();
    MOST.store(before, SeqCst);
    let result = f();
    (MOST.load(SeqCst) - before, result)
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The tiny model in f32, which the CPU's kernels compute, or in f16, through the tensor code of every other device: it
/// makes the same tensors there, and bf16 has the same size.
fn tiny(dtype: DType) -> BaseModel {
    BaseModel::load_as(&folder("models/tiny"), &Device::Cpu, dtype, Precision::Exact).unwrap()
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

/// Of the tiny model's prompts.
const TOKENS: u32 = 32;

/// K and V of so many elements as leaves.
fn leaves(base: &BaseModel, tape: &Tape, elements: usize) -> Vec<KeyValueVariable> {
    let kv =
        |inner: usize| tape.leaf(zeros(&[elements, TOKENS as usize, inner], base.unet.dtype()));
    let layers = base.unet.cross_attention().iter();
    let inner = layers.map(|layer| layer.to_k.dims()[0]);
    inner.map(|inner| KeyValueVariable::new(kv(inner), kv(inner))).collect()
}

/// Bytes that the tape keeps of a call through the UNet, and the most that the backward pass has alive with them.
fn counted(base: &BaseModel, elements: usize, side: usize, plan: &Recomputation) -> (usize, usize) {
    let tape = Tape::default();
    let leaves = leaves(base, &tape, elements);
    let latents = zeros(&[elements, side, side, 4], base.unet.dtype());
    let before = alive();
    let predicted = base.unet.trace(&latents, &vec![3.0; elements], leaves, plan).unwrap();
    let kept = alive() - before;
    let gradient = predicted.tensor().clone();
    let (most, _) = most_of(|| tape.backward(&predicted, gradient).unwrap());
    (kept, kept + most)
}

/// Within a share of it and of what the tape's own lists take.
fn assert_near(what: &str, expected: u64, counted: usize, share: f64) {
    const LISTS: f64 = 150e3;
    let off = (expected as f64 - counted as f64).abs();
    assert!(
        off < share * expected as f64 + LISTS,
        "{what}: {expected} expected, {counted} counted"
    );
}

#[test]
fn a_networks_weights_stay_in_their_file() {
    let _turn = turn();
    // The tiny model's, in f32.
    let (dir, stem) = (folder("models/tiny/unet"), "diffusion_pytorch_model");
    let own = tempfile::tempdir().unwrap();
    let name = format!("{stem}.safetensors");
    let weights = candle_core::safetensors::load(dir.join(&name), &Device::Cpu).unwrap();
    let single = |(name, x): (String, Tensor)| (name, x.to_dtype(DType::F32).unwrap());
    let weights: HashMap<String, Tensor> = weights.into_iter().map(single).collect();
    candle_core::safetensors::save(&weights, own.path().join(&name)).unwrap();
    drop(weights);

    let files = WeightFiles::open(own.path(), stem, &Device::Cpu, DType::F32).unwrap();
    let size = files.size_bytes() as usize;
    let before = alive();
    let unet = UNet2DConditionModel::load(&dir, &files).unwrap();
    let loaded = alive() - before;
    // Projections to K and V are what deltas are added to, and biases and norms are small.
    assert!(loaded < size / 8, "{loaded} bytes beside a file of {size}");
    drop(unet);
}

#[test]
fn activations_take_what_the_config_says() {
    let _turn = turn();
    for dtype in [DType::F32, DType::F16] {
        let base = tiny(dtype);
        let config = base.unet.config();
        let sizes = [(2, 16), (3, 24)];
        for (elements, side) in sizes {
            // candle's matrix product keeps some space of its own, on the thread that it chooses by the size.
            counted(&base, elements, side, &config.recompute_all(false));
        }
        for (elements, side) in sizes {
            let latents = zeros(&[elements, 4, side, side], DType::F32);
            let call = base.unet.call_size(&latents).unwrap();
            let keep = config.activation_bytes(&call, &config.recompute_all(false));
            let least = config.activation_bytes(&call, &config.recompute_all(true));
            let mut last = 0;
            for budget in [u64::MAX, (2 * keep + least) / 3, least] {
                let within = Activations::Within(budget);
                let plan = base.unet.recomputation(within, &latents).unwrap();
                let (kept, most) = counted(&base, elements, side, &plan);
                let what =
                    format!("{dtype:?}, {elements} elements of {side}, {} again", plan.layers());
                assert_near(&what, config.tape_bytes(&call, &plan), kept, 0.04);
                assert_near(&what, config.activation_bytes(&call, &plan), most, 0.04);
                assert!(config.activation_bytes(&call, &plan) <= budget, "{what}");
                assert!(plan.layers() >= last, "{what}");
                last = plan.layers();
            }
            assert!(last > 0);
        }
    }
}

/// Numbers of all projections to K and V.
fn trained(unet: &UNet2DConditionConfig) -> u64 {
    unet.projected() * unet.cross_attention_dim() as u64
}

fn batch(base: &BaseModel, elements: usize, side: usize) -> Batch {
    let vocab_size = base.prompt_encoder.vocab_size() as u32;
    let shape = [elements, 4, side, side];
    Batch {
        latents: zeros(&shape, DType::F32),
        noise: Tensor::ones(&shape, DType::F32, &Device::Cpu).unwrap(),
        timesteps: vec![500; elements],
        // Captions that differ, each with the modifier token.
        input_ids: (0..elements as u32)
            .map(|element| {
                (0..TOKENS).map(|at| if at == 4 { vocab_size } else { element + at }).collect()
            })
            .collect(),
        mask: Tensor::ones((elements, 1, side, side), DType::F32, &Device::Cpu).unwrap(),
        is_class_image: vec![false; elements],
    }
}

#[test]
fn a_training_step_takes_what_the_config_says_and_stays_in_its_budget() {
    let _turn = turn();
    for dtype in [DType::F32, DType::F16] {
        let base = tiny(dtype);
        let batch = batch(&base, 3, 24);
        let (unet, text) = (base.unet.config(), base.prompt_encoder.text_encoder().config());
        let call = base.unet.call_size(&batch.latents).unwrap();
        let expected = |again| {
            StepMemory::of(
                trained(unet),
                unet,
                text,
                &call,
                (3, TOKENS as usize),
                &unet.recompute_all(again),
            )
            .beside_weights()
        };
        let row = zeros(&[1, base.prompt_encoder.hidden_size()], DType::F32);
        let count = |budget: Option<u64>| {
            let before = alive();
            let recipe = TrainingRecipe::paper();
            let frozen = FrozenModel::from(&base);
            let parameters = Parameters::new(frozen, Some(row.clone()), &recipe).unwrap();
            let trainer = Trainer::new(parameters, frozen, &recipe);
            let mut trainer = trainer.unwrap().with_memory_budget(budget);
            let state = alive() - before;
            let (most, report) = most_of(|| trainer.step((&base).into(), &batch, 1e-3).unwrap());
            let weights: Vec<f32> =
                trainer.method.parameters()[0].value.flatten_all().unwrap().to_vec1().unwrap();
            (state + most, report.loss.to_bits(), weights)
        };
        count(None); // candle's matrix product keeps some space of its own
        let (all, loss, weights) = count(None);
        let (least, loss_again, weights_again) = count(Some(0));

        assert_near(&format!("{dtype:?}, kept"), expected(false), all, 0.05);
        assert_near(&format!("{dtype:?}, recomputed"), expected(true), least, 0.05);
        assert!(least < all / 10 * 9, "{least} of {all}");
        let between = ((all + least) / 2) as u64;
        assert!(count(Some(between)).0 as u64 <= between / 100 * 104);
        // What is computed again comes out the same.
        assert!(loss == loss_again && weights == weights_again, "{dtype:?}");
    }
}

#[test]
fn no_gradient_has_the_shape_of_a_frozen_weight() {
    let _turn = turn();
    const ELEMENTS: usize = 3; // no weight has so few rows
    for dtype in [DType::F32, DType::F16] {
        let base = tiny(dtype);
        let mut shapes = Vec::new();
        let mut seen = |gradient: &Tensor| shapes.push(gradient.dims().to_vec());

        let tape = Tape::default();
        let leaves = leaves(&base, &tape, ELEMENTS);
        let latents = zeros(&[ELEMENTS, 16, 16, 4], dtype);
        let plan = base.unet.config().recompute_all(false);
        let predicted = base.unet.trace(&latents, &[3.0; ELEMENTS], leaves, &plan).unwrap();
        let gradient = predicted.tensor().clone();
        tape.backward_seen(&predicted, gradient, &mut seen).unwrap();

        let tape = Tape::default();
        let rows = tape.leaf(zeros(&[ELEMENTS, base.prompt_encoder.hidden_size()], DType::F32));
        let features = base
            .prompt_encoder
            .text_encoder()
            .trace(&batch(&base, ELEMENTS, 8).input_ids, Some(&rows))
            .unwrap();
        let gradient = features.tensor().clone();
        tape.backward_seen(&features, gradient, &mut seen).unwrap();

        assert!(shapes.len() > 200, "{}", shapes.len());
        for shape in shapes {
            assert!(
                shape[0] == ELEMENTS || shape[..2] == [1, ELEMENTS],
                "{dtype:?}: a gradient of {shape:?}"
            );
        }
    }
}

/// Stable Diffusion 1.5, by its published configs.
fn stable_diffusion_1_5() -> (UNet2DConditionConfig, ClipTextConfig) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let unet = serde_json::json!({
        "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
        "attention_head_dim": 8, "layers_per_block": 2, "act_fn": "silu", "sample_size": 64,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    });
    std::fs::write(&path, unet.to_string()).unwrap();
    let text = serde_json::json!({
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12, "vocab_size": 49408,
    });
    (UNet2DConditionConfig::read(&path).unwrap(), serde_json::from_value(text).unwrap())
}

#[test]
fn stable_diffusion_trains_on_a_card_of_12_gb() {
    let (unet, text) = stable_diffusion_1_5();
    assert_eq!((unet.parameters(), text.parameters()), (859_520_964, 123_060_480));
    let call = CallSize { batch: 8, height: 64, width: 64, dtype: DType::BF16, on_cpu: false };
    let of = |again| {
        StepMemory::of(trained(&unet), &unet, &text, &call, (4, 77), &unet.recompute_all(again))
    };
    let (kept, recomputed) = (of(false), of(true));
    println!("all kept: {} bytes, {kept:?}", kept.total());
    println!("all computed again: {} bytes, {recomputed:?}", recomputed.total());

    // The autoencoder stays where it is while a training runs; the driver's context, the kernels' code and cuBLAS's
    // workspace are not tensors of ours.
    let (autoencoder, driver) = (2 * 83_653_863, 1_000_000_000);
    assert!(recomputed.total() + autoencoder + driver < 12_000_000_000);
    // Two thirds of that are left to a budget that knows what is free.
    let budget = 12_000_000_000 - autoencoder - driver - recomputed.weights;
    let plan = unet.recompute_within(&call, recomputed.left_for_activations(budget));
    assert!(
        StepMemory::of(trained(&unet), &unet, &text, &call, (4, 77), &plan).beside_weights()
            <= budget
    );
    println!(
        "within 12 GB: {} of {} layers again",
        plan.layers(),
        unet.recompute_all(true).layers()
    );
}

#[test]
fn parameters_are_counted_as_the_files_have_them() {
    let _turn = turn();
    for path in ["models/tiny", "tests/golden/sd1/model", "tests/golden/sd2/model"] {
        let numbers = |file: &str| -> u64 {
            let weights = candle_core::safetensors::load(folder(path).join(file), &Device::Cpu);
            weights
                .unwrap()
                .values()
                .filter(|x| x.dtype().is_float())
                .map(|x| x.elem_count() as u64)
                .sum()
        };
        let base = BaseModel::load(&folder(path), &Device::Cpu).unwrap();
        let unet = numbers("unet/diffusion_pytorch_model.safetensors");
        assert_eq!(base.unet.config().parameters(), unet, "{path}");
        assert_eq!(
            base.prompt_encoder.text_encoder().config().parameters(),
            numbers("text_encoder/model.safetensors"),
            "{path}"
        );
    }
}
