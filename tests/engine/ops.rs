//! The engine's operations: kernels against plain tensor code in f64, that code against finite differences, and an element
//! of a batch alone against the same element among others, byte for byte.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use vstar::engine::autograd::{Tape, Variable, checkpoint};
use vstar::engine::ops::{
    self, FrozenConv2d, FrozenLinear, FrozenWeight, Geglu, GroupNorm, InstructionSet, LayerNorm,
    Padding, Precision, attention,
};
use vstar::engine::unet::{Activations, KeyValueVariable};
use vstar::engine::{BaseModel, KeyValue};

use crate::devices::test_devices;

/// Numbers in `[-1, 1]` that depend on the seed alone, in f64 on the CPU.
fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Where an operation runs, and where its frozen weights therefore lie.
#[derive(Clone)]
struct Place {
    device: Device,
    dtype: DType,
    /// Of products on the CPU.
    precision: Precision,
}

impl Place {
    fn new(device: &Device, dtype: DType) -> Self {
        Self { device: device.clone(), dtype, precision: Precision::default() }
    }

    /// f64 on the CPU: the plain tensor code.
    fn reference() -> Self {
        Self::new(&Device::Cpu, DType::F64)
    }

    fn single(device: &Device) -> Self {
        Self::new(device, DType::F32)
    }

    /// Products of bf16 numbers, where this CPU has them.
    fn rounding_factors() -> Option<Self> {
        let has_them = InstructionSet::used().multiplies_bf16();
        let place = Self { precision: Precision::Bf16, ..Self::single(&Device::Cpu) };
        has_them.then_some(place)
    }

    /// The ways in which our kernels compute on this CPU.
    fn with_kernels() -> impl Iterator<Item = Self> {
        std::iter::once(Self::single(&Device::Cpu)).chain(Self::rounding_factors())
    }

    fn put(&self, x: &Tensor) -> Tensor {
        x.to_dtype(self.dtype).unwrap().to_device(&self.device).unwrap()
    }

    fn weight(&self, seed: u64, shape: &[usize]) -> Tensor {
        self.put(&numbers(seed, shape))
    }

    fn frozen(&self, seed: u64, shape: &[usize]) -> FrozenWeight {
        FrozenWeight::from(self.weight(seed, shape)).with_precision(self.precision)
    }
}

type Run = Box<dyn Fn(&Place, &[Variable]) -> Result<Variable> + Sync>;

/// One operation with the shapes of its inputs, each with the batch first.
struct Operation {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    /// What the inputs, in [-1, 1], are multiplied by.
    scale: f64,
    /// How many of the inputs, from the first on, take a gradient.
    differentiable: usize,
    run: Run,
}

impl Operation {
    fn inputs(&self) -> Vec<Tensor> {
        let input =
            |(i, shape): (usize, &Vec<usize>)| (numbers(i as u64 + 1, shape) * self.scale).unwrap();
        self.shapes.iter().enumerate().map(input).collect()
    }

    /// The value, and the gradients of `Σ pull ∘ value`.
    fn value_and_gradients(
        &self,
        place: &Place,
        inputs: &[Tensor],
        pull: impl Fn(&[usize]) -> Tensor,
    ) -> (Tensor, Vec<Tensor>) {
        let tape = Tape::default();
        let leaves: Vec<Variable> = inputs.iter().map(|x| tape.leaf(place.put(x))).collect();
        let value = (self.run)(place, &leaves).unwrap();
        let pull = place.put(&pull(value.tensor().dims()));
        let mut gradients = tape.backward(&value, pull).unwrap();
        let mut of = |x: &Variable| {
            let gradient = gradients.take(x);
            gradient.unwrap_or_else(|| panic!("{}: an input takes no gradient", self.name))
        };
        let gradients = leaves[..self.differentiable].iter().map(&mut of).collect();
        (value.into_tensor(), gradients)
    }

    /// The value alone.
    fn value(&self, place: &Place, inputs: &[Tensor]) -> Tensor {
        let inputs: Vec<Variable> = inputs.iter().map(|x| place.put(x).into()).collect();
        (self.run)(place, &inputs).unwrap().into_tensor()
    }
}

fn operation(
    name: &'static str,
    shapes: &[&[usize]],
    run: impl Fn(&Place, &[Variable]) -> Result<Variable> + Sync + 'static,
) -> Operation {
    let shapes: Vec<Vec<usize>> = shapes.iter().map(|shape| shape.to_vec()).collect();
    Operation { name, differentiable: shapes.len(), shapes, scale: 1.0, run: Box::new(run) }
}

fn conv(
    name: &'static str,
    input: [usize; 4],
    (out_channels, kernel): (usize, usize),
    stride: usize,
    padding: Padding,
) -> Operation {
    operation(name, &[&input], move |place, x| {
        let weight = place.frozen(11, &[out_channels, input[3], kernel, kernel]);
        let bias = place.weight(12, &[out_channels]);
        FrozenConv2d::new(weight, Some(bias), stride, padding, Precision::Exact)?.forward(&x[0])
    })
}

/// A 3×3 convolution that may go through Winograd's filtering.
fn winograd(name: &'static str, input: [usize; 4], out_channels: usize) -> Operation {
    let output = [input[0], input[1], input[2], out_channels];
    operation(name, &[&input, &output], move |place, x| {
        let weight = place.frozen(11, &[out_channels, input[3], 3, 3]);
        let bias = place.weight(12, &[out_channels]);
        let same = Padding::same(1);
        FrozenConv2d::new(weight, Some(bias), 1, same, Precision::Fast)?.forward_add(&x[0], &x[1])
    })
}

fn linear(name: &'static str, in_features: usize, out_features: usize) -> Operation {
    operation(name, &[&[3, 35, in_features]], move |place, x| {
        let weight = place.frozen(15, &[out_features, in_features]);
        FrozenLinear::new(weight, Some(place.weight(16, &[out_features])))?.forward(&x[0])
    })
}

fn geglu(name: &'static str, input: &[usize; 3], width: usize) -> Operation {
    let in_features = input[2];
    scaled(
        4.0,
        operation(name, &[input], move |place, x| {
            let weight = place.frozen(15, &[2 * width, in_features]);
            Geglu::new(weight, place.weight(16, &[2 * width]))?.forward(&x[0])
        }),
    )
}

/// What a logit is raised by, given its query and its key.
type Bias = fn(usize, usize) -> f64;

fn causal(query: usize, key: usize) -> f64 {
    if key > query { f64::from(f32::MIN) } else { 0.1 * ((query + 3 * key) % 7) as f64 }
}

fn attend(
    name: &'static str,
    (queries, keys, heads, head_dim): (usize, usize, usize, usize),
    bias: Option<Bias>,
) -> Operation {
    let (q, k) = ([3, queries, heads * head_dim], [3, keys, heads * head_dim]);
    operation(name, &[&q, &k, &k], move |place, x| {
        let bias = bias.map(|bias| {
            let pairs = (0..queries * keys).map(|at| bias(at / keys, at % keys));
            place.put(&Tensor::from_iter(pairs, &Device::Cpu).unwrap())
        });
        let bias = bias.map(|bias| bias.reshape((queries, keys))).transpose()?;
        let scale = (head_dim as f64).powf(-0.5);
        attention(&x[0], &x[1], &x[2], heads, scale, bias.as_ref(), place.precision)
    })
}

/// Every operation, in shapes that cross the borders of the kernels' tiles and in some that fill none.
fn operations() -> Vec<Operation> {
    let same = Padding::same(1);
    let below_and_right = Padding { top: 0, bottom: 1, left: 0, right: 1 };
    let norm = |place: &Place, c: usize| (place.weight(13, &[c]), place.weight(14, &[c]));
    let mut all = vec![
        conv("conv 3x3", [3, 9, 11, 5], (7, 3), 1, same),
        conv("conv 3x3, several tiles", [3, 17, 19, 33], (70, 3), 1, same),
        conv("conv 3x3, many filters on a small image", [3, 4, 4, 24], (260, 3), 1, same),
        conv("conv 3x3, stride 2", [3, 8, 10, 6], (5, 3), 2, same),
        conv("conv 3x3, stride 2, odd", [3, 9, 7, 18], (5, 3), 2, same),
        conv("conv 3x3, stride 2, asymmetric", [3, 8, 10, 6], (5, 3), 2, below_and_right),
        conv("conv 1x1", [3, 16, 18, 21], (9, 1), 1, Padding::same(0)),
        winograd("conv 3x3, winograd", [3, 9, 11, 16], 32),
        winograd("conv 3x3, winograd, several blocks", [3, 22, 17, 144], 80),
        winograd("conv 3x3, winograd, small tiles", [3, 4, 4, 208], 48),
        winograd("conv 3x3, winograd, small tiles across a border", [3, 1, 16, 16], 32),
        // More than 4 MiB of filters, which are read where they lie.
        conv("conv 3x3, large", [3, 18, 19, 208], (576, 3), 1, same),
        conv("conv 3x3, large, odd", [3, 5, 4, 197], (600, 3), 1, same),
        conv("conv 3x3, large, stride 2", [3, 6, 8, 208], (576, 3), 2, below_and_right),
        winograd("conv 3x3, winograd, large", [3, 9, 11, 208], 576),
        winograd("conv 3x3, large on a small image", [3, 4, 4, 208], 576),
        // More than 1 MiB of matrix, likewise.
        linear("linear, large", 480, 560),
        linear("linear, large, odd", 501, 543),
        geglu("geglu, large", &[3, 201, 480], 552),
        operation("linear", &[&[3, 67, 300]], |place, x| {
            let (weight, bias) = (place.frozen(15, &[70, 300]), place.weight(16, &[70]));
            FrozenLinear::new(weight, Some(bias))?.forward(&x[0])
        }),
        operation("linear without bias", &[&[3, 5, 12]], |place, x| {
            FrozenLinear::new(place.frozen(15, &[17, 12]), None)?.forward(&x[0])
        }),
        operation("linear, large, few rows", &[&[3, 77, 560]], |place, x| {
            let weight = place.frozen(15, &[500, 560]).with_few_rows();
            FrozenLinear::new(weight, Some(place.weight(16, &[500])))?.forward(&x[0])
        }),
        operation("linear, gelu", &[&[3, 67, 300]], |place, x| {
            let (weight, bias) = (place.frozen(15, &[70, 300]), place.weight(16, &[70]));
            FrozenLinear::new(weight, Some(bias))?.forward_gelu(&x[0])
        }),
        operation("linear, quick gelu", &[&[3, 5, 12]], |place, x| {
            FrozenLinear::new(place.frozen(15, &[17, 12]), None)?.forward_quick_gelu(&x[0])
        }),
        operation("linear, added", &[&[3, 67, 33], &[3, 67, 70]], |place, x| {
            FrozenLinear::new(place.frozen(15, &[70, 33]), None)?.forward_add(&x[0], &x[1])
        }),
        operation("group norm", &[&[3, 5, 7, 12]], move |place, x| {
            let (weight, bias) = norm(place, 12);
            GroupNorm::new(weight, bias, 4, 1e-5)?.forward(&x[0])
        }),
        operation("group norm, silu", &[&[3, 19, 17, 12]], move |place, x| {
            let (weight, bias) = norm(place, 12);
            GroupNorm::new(weight, bias, 4, 1e-5)?.forward_silu(&x[0])
        }),
        operation("layer norm", &[&[3, 9, 43]], move |place, x| {
            let (weight, bias) = norm(place, 43);
            LayerNorm::new(weight, bias, 1e-5)?.forward(&x[0])
        }),
        attend("attention", (9, 9, 2, 5), None),
        attend("attention, several blocks", (131, 77, 3, 40), None),
        attend("attention, several blocks of keys", (70, 531, 2, 12), None),
        attend("attention, one wide head", (20, 20, 1, 160), None),
        attend("attention, causal", (19, 19, 2, 4), Some(causal)),
        attend("attention, causal, several blocks", (101, 101, 2, 12), Some(causal)),
        attend("attention, causal, several blocks of keys", (290, 290, 2, 10), Some(causal)),
        attend(
            "attention, keys above those before",
            (50, 531, 2, 10),
            Some(|_, key| 0.03 * key as f64),
        ),
        attend(
            "attention, keys far above those before",
            (50, 531, 2, 16),
            Some(|_, key| if key < 400 { 0.0 } else { 20.0 }),
        ),
        scaled(6.0, operation("silu", &[&[3, 4, 50]], |_, x| ops::silu(&x[0]))),
        scaled(6.0, operation("gelu", &[&[3, 4, 50]], |_, x| ops::gelu(&x[0]))),
        scaled(6.0, operation("quick gelu", &[&[3, 4, 50]], |_, x| ops::quick_gelu(&x[0]))),
        geglu("geglu", &[3, 7, 12], 19),
        geglu("geglu, several tasks", &[3, 131, 33], 130),
        operation("concat channels", &[&[3, 3, 5, 4], &[3, 3, 5, 7]], |_, x| {
            ops::concat_channels(&x[0], &x[1])
        }),
        operation("upsample", &[&[3, 3, 5, 4]], |_, x| ops::upsample_nearest_2x(&x[0], 6, 10)),
        operation("upsample, odd", &[&[3, 3, 5, 4]], |_, x| ops::upsample_nearest_2x(&x[0], 5, 9)),
        operation("used twice, reshaped", &[&[3, 4, 6]], |_, x| {
            ops::concat_channels(&x[0], &ops::silu(&x[0])?)?.reshape(((), 48))
        }),
        operation("used twice, normalized and projected", &[&[3, 67, 40]], move |place, x| {
            let (weight, bias) = norm(place, 40);
            let normalized = LayerNorm::new(weight, bias, 1e-5)?.forward(&x[0])?;
            let linear = |seed: u64| FrozenLinear::new(place.frozen(seed, &[40, 40]), None);
            let products =
                linear(16)?.forward_add(&linear(15)?.forward(&normalized)?, &normalized)?;
            linear(17)?.forward_add(&linear(18)?.forward(&products)?, &x[0])
        }),
        operation("used twice, normalized in groups", &[&[3, 17, 19, 12]], move |place, x| {
            let (weight, bias) = norm(place, 12);
            let normalized = GroupNorm::new(weight, bias, 4, 1e-5)?.forward_silu(&x[0])?;
            FrozenLinear::new(place.frozen(15, &[12, 12]), None)?.forward_add(&normalized, &x[0])
        }),
        operation("recomputed", &[&[3, 5, 8], &[3, 5, 8]], |place, x| {
            let linear = FrozenLinear::new(place.frozen(15, &[8, 8]), None)?;
            let block = move |x: &[Variable]| Ok(linear.forward_add(&ops::silu(&x[0])?, &x[1])?);
            checkpoint(&[&x[0], &x[1]], block).map_err(candle_core::Error::wrap)
        }),
    ];
    let shifted =
        operation("group norm, shifted, silu", &[&[3, 4, 5, 12], &[3, 12]], move |place, x| {
            let (weight, bias) = norm(place, 12);
            GroupNorm::new(weight, bias, 4, 1e-5)?.forward_shifted_silu(&x[0], x[1].tensor())
        });
    all.push(Operation { differentiable: 1, ..shifted });
    all
}

fn scaled(scale: f64, operation: Operation) -> Operation {
    Operation { scale, ..operation }
}

fn flat(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn pull(shape: &[usize]) -> Tensor {
    numbers(99, shape)
}

/// Compares within `tolerance` of the largest number, or of 1 if that is smaller, and returns the largest error.
fn assert_close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) -> f64 {
    assert_eq!(actual.dims(), expected.dims(), "{what}");
    let (actual, expected) = (flat(actual), flat(expected));
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let mut worst = 0.0f64;
    for (at, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        let error = (actual - expected).abs() / (1.0 + largest);
        assert!(error < tolerance, "{what}, element {at}: {actual} for {expected}");
        worst = worst.max(error);
    }
    worst
}

fn assert_matches_the_reference(place: &Place, tolerance: f64) {
    for op in operations() {
        let inputs = op.inputs();
        let (expected, gradients) = op.value_and_gradients(&Place::reference(), &inputs, pull);
        let (actual, ours) = op.value_and_gradients(place, &inputs, pull);
        let mut worst = assert_close(op.name, &actual, &expected, tolerance);
        for (i, (ours, expected)) in ours.iter().zip(&gradients).enumerate() {
            let what = format!("{}, gradient {i}", op.name);
            worst = worst.max(assert_close(&what, ours, expected, tolerance));
        }
        // Attention that nothing is differentiated through may be computed in another way.
        let what = format!("{}, value alone", op.name);
        worst = worst.max(assert_close(&what, &op.value(place, &inputs), &expected, tolerance));
        // In the form of the golden cases' lines, for `gpu/check`.
        let Place { device, dtype, precision } = place;
        let rounded = if *precision == Precision::Bf16 { ", bf16 products" } else { "" };
        let label = format!("{:?} {}{rounded}: {}", device.location(), dtype.as_str(), op.name);
        println!("{label:<60}  {worst:9.2e}  of {tolerance:8.1e}  value and gradients");
    }
}

#[test]
fn kernels_match_plain_tensor_code_in_f64() {
    for device in test_devices() {
        assert_matches_the_reference(&Place::single(&device), 4e-6);
    }
}

/// Factors are rounded to bf16, and nothing else is.
#[test]
fn products_of_bf16_numbers_stay_within_their_rounding() {
    match Place::rounding_factors() {
        Some(place) => assert_matches_the_reference(&place, 1e-2),
        None => println!("skipped: this CPU does not multiply bf16 numbers"),
    }
}

/// Inputs, weights and results are rounded to half; sums, norms and softmax are not. No image is made with f16 on a CPU:
/// there, it stands in for a GPU.
#[test]
fn half_precision_stays_within_its_rounding() {
    for device in test_devices() {
        assert_matches_the_reference(&Place::new(&device, DType::BF16), 2e-2);
        if device.is_cpu() && cfg!(target_arch = "aarch64") {
            println!("skipped: candle sums products of f16 numbers in f16 on this CPU");
        } else {
            assert_matches_the_reference(&Place::new(&device, DType::F16), 2.5e-3);
        }
    }
}

/// The reference's gradients are written out in tensor code; they are held against nothing but the values themselves.
#[test]
fn gradients_match_finite_differences() {
    const STEP: f64 = 1e-5;
    let places = test_devices().into_iter().map(|device| Place::new(&device, DType::F64));
    for (place, op) in
        places.flat_map(|place| operations().into_iter().map(move |op| (place.clone(), op)))
    {
        let inputs = op.inputs();
        let (_, gradients) = op.value_and_gradients(&place, &inputs, pull);
        let pulled = |inputs: &[Tensor]| -> f64 {
            let value = op.value(&place, inputs);
            flat(&(&value * place.put(&pull(value.dims()))).unwrap()).iter().sum()
        };
        for (i, gradient) in gradients.iter().enumerate() {
            let (values, gradient) = (flat(&inputs[i]), flat(gradient));
            let every = values.len().div_ceil(5);
            for at in (0..values.len()).step_by(every) {
                let moved = |by: f64| {
                    let (mut values, mut inputs) = (values.clone(), inputs.clone());
                    values[at] += by;
                    let shape = inputs[i].dims().to_vec();
                    inputs[i] = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
                    pulled(&inputs)
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let error = (slope - gradient[at]).abs() / (1.0 + slope.abs());
                assert!(error < 1e-6, "{}, input {i}, {at}: {slope}, {}", op.name, gradient[at]);
            }
        }
    }
}

#[test]
fn an_element_alone_has_the_bytes_of_the_same_element_among_others() {
    let all = || operations().into_iter();
    for (place, op) in
        Place::with_kernels().flat_map(|place| all().map(move |op| (place.clone(), op)))
    {
        let inputs = op.inputs();
        let (value, gradients) = op.value_and_gradients(&place, &inputs, pull);
        let value_without_gradients = op.value(&place, &inputs);
        for element in 0..3 {
            let alone: Vec<Tensor> =
                inputs.iter().map(|x| x.narrow(0, element, 1).unwrap()).collect();
            let pull = |shape: &[usize]| {
                let batch = [&[3], &shape[1..]].concat();
                numbers(99, &batch).narrow(0, element, 1).unwrap()
            };
            let (value_alone, gradients_alone) = op.value_and_gradients(&place, &alone, pull);
            let same =
                |all: &Tensor, one: &Tensor| bits(&all.narrow(0, element, 1).unwrap()) == bits(one);
            assert!(same(&value, &value_alone), "{}, element {element}", op.name);
            let value_alone = op.value(&place, &alone);
            assert!(same(&value_without_gradients, &value_alone), "{}, element {element}", op.name);
            for (all, one) in gradients.iter().zip(&gradients_alone) {
                assert!(same(all, one), "{}, gradient of element {element}", op.name);
            }
        }
    }
}

/// Tensor code takes larger batches chunk by chunk, to bound its memory.
#[test]
fn a_batch_that_is_computed_in_chunks_has_the_numbers_of_its_elements_alone() {
    // A GPU's matrix product may sum in another order for another number of rows.
    let place = Place::new(&Device::Cpu, DType::F16);
    let silu = operation("silu", &[&[3, 1 << 23]], |_, x| ops::silu(&x[0]));
    for op in [silu, attend("attention", (512, 2048, 8, 2), None)] {
        let inputs = op.inputs();
        let (value, gradients) = op.value_and_gradients(&place, &inputs, pull);
        for element in [0, 2] {
            let of_element = |x: &Tensor| x.narrow(0, element, 1).unwrap();
            let alone: Vec<Tensor> = inputs.iter().map(of_element).collect();
            let pull = |shape: &[usize]| of_element(&numbers(99, &[&[3], &shape[1..]].concat()));
            let (value_alone, gradients_alone) = op.value_and_gradients(&place, &alone, pull);
            let same = |all: &Tensor, one: &Tensor| flat(&of_element(all)) == flat(one);
            assert!(same(&value, &value_alone), "{}, element {element}", op.name);
            for (all, one) in gradients.iter().zip(&gradients_alone) {
                assert!(same(all, one), "{}, gradient of element {element}", op.name);
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let results = |place: &Place, op: &Operation| {
                let (value, gradients) = op.value_and_gradients(place, &op.inputs(), pull);
                let alone = op.value(place, &op.inputs());
                [value, alone].into_iter().chain(gradients).map(|x| bits(&x)).collect::<Vec<_>>()
            };
            let of_place = |place: Place| -> Vec<_> {
                operations().iter().flat_map(|op| results(&place, op)).collect()
            };
            Place::with_kernels().map(of_place).collect::<Vec<_>>()
        })
    };
    assert!(run(1) == run(5));
}

/// A weight is packed at its first use, by several threads. A thread that waits for the others takes up other work
/// meanwhile, which may be a first use of the same weight.
#[test]
fn threads_may_meet_at_the_first_use_of_a_weight() {
    for threads in [3, 5, 8, 16] {
        meet_at_first_uses(threads);
    }
}

fn meet_at_first_uses(threads: usize) {
    const ROUNDS: usize = 50;
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let place = Place::single(&Device::Cpu);
        let conv = |precision| {
            let weight = place.weight(1, &[64, 64, 3, 3]);
            FrozenConv2d::new(weight, None, 1, Padding::same(1), precision).unwrap()
        };
        let image: Variable = place.put(&numbers(3, &[1, 8, 8, 64])).into();
        for _ in 0..ROUNDS {
            let linear = || FrozenLinear::new(place.weight(2, &[256, 64]), None).unwrap();
            let linears: Vec<FrozenLinear> = (0..8).map(|_| linear()).collect();
            let convs = [conv(Precision::Exact), conv(Precision::Fast)];
            let geglu = Geglu::new(place.weight(4, &[512, 64]), place.weight(5, &[512])).unwrap();
            pool.install(|| {
                (0..64).into_par_iter().for_each(|_| {
                    for linear in &linears {
                        linear.forward(&image).unwrap();
                    }
                    geglu.forward(&image).unwrap();
                    for conv in &convs {
                        let y = conv.forward(&image).unwrap();
                        conv.input_gradient(y.tensor(), (8, 8)).unwrap();
                    }
                });
            });
            done.send(()).unwrap();
        }
    });

    for round in 0..ROUNDS {
        let result = is_done.recv_timeout(Duration::from_secs(300));
        // Either the thread panicked, or its pool's threads wait for each other.
        assert!(result.is_ok(), "{threads} threads, round {round}: {result:?}");
    }
}

/// The same for whole networks: each thread runs one for some elements of a batch, all with the same new weights.
#[test]
fn threads_may_meet_in_a_new_network() {
    const THREADS: [usize; 4] = [3, 5, 8, 16];
    const ROUNDS: usize = 3;
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
        for threads in THREADS {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for _ in 0..ROUNDS {
                let base = BaseModel::load(&folder, &Device::Cpu).unwrap();
                let ids = base.prompt_encoder.tokenize("a dog", &[]).unwrap().ids;
                let features = base.prompt_encoder.encode(&vec![ids; 16], None).unwrap();
                let key_values = base.unet.project(&features).unwrap();
                let latents = Place::single(&Device::Cpu).put(&numbers(1, &[16, 4, 16, 16]));
                let timesteps = [500.0; 16];
                pool.install(|| base.unet.forward(&latents, &timesteps, &key_values)).unwrap();
                done.send(()).unwrap();
            }
        }
    });

    for round in 0..THREADS.len() * ROUNDS {
        let result = is_done.recv_timeout(Duration::from_secs(300));
        assert!(result.is_ok(), "round {round}: {result:?}");
    }
}

/// So many pixels that the gradients of one panel of channels are more than are kept at once.
#[test]
fn the_gradient_of_a_large_unfolded_convolution_is_that_of_its_parts() {
    let place = Place::single(&Device::Cpu);
    let weight = place.weight(1, &[69, 69, 15, 15]); // above 4 MiB, so that it is unfolded
    let conv = FrozenConv2d::new(weight, None, 1, Padding::same(7), Precision::Fast).unwrap();
    let dy = place.put(&numbers(2, &[2, 69, 69, 69]));

    let both = conv.input_gradient(&dy, (69, 69)).unwrap();

    for element in 0..2 {
        let one = dy.narrow(0, element, 1).unwrap();
        let alone = conv.input_gradient(&one, (69, 69)).unwrap();
        assert!(bits(&alone) == bits(&both.narrow(0, element, 1).unwrap()), "{element}");
    }
}

/// Kernels go through their arguments side by side: one that is too short would be read beyond its end, or leave a rest
/// of the result unwritten.
#[test]
fn arguments_whose_shapes_do_not_fit_are_refused() {
    let place = Place::single(&Device::Cpu);
    let of = |shape: &[usize]| place.put(&numbers(1, shape));
    let variable = |shape: &[usize]| -> Variable { of(shape).into() };
    let linear = FrozenLinear::new(of(&[48, 16]), None).unwrap();
    let conv =
        FrozenConv2d::new(of(&[32, 16, 3, 3]), None, 1, Padding::same(1), Precision::Fast).unwrap();
    let layer_norm = LayerNorm::new(of(&[16]), of(&[16]), 1e-5).unwrap();
    let group_norm = GroupNorm::new(of(&[16]), of(&[16]), 4, 1e-5).unwrap();
    let step = ops::AdamWStep {
        gradient_scale: 1.0,
        betas: (0.9, 0.999),
        rate: 1e-3,
        second_scale: 1.0,
        epsilon: 1e-8,
        kept: 1.0,
    };
    let adamw = |gradient: &[usize]| {
        let [parameter, moment] = [of(&[64]), of(&[64])];
        ops::adamw(&parameter, &of(gradient), [&moment, &moment], step).err()
    };

    for (what, refused) in [
        ("a bias of 1", FrozenLinear::new(of(&[48, 16]), Some(of(&[1]))).is_err()),
        (
            "a bias of 1 of filters",
            FrozenConv2d::new(
                of(&[32, 16, 3, 3]),
                Some(of(&[1])),
                1,
                Padding::same(1),
                Precision::Fast,
            )
            .is_err(),
        ),
        ("a bias of half a projection", Geglu::new(of(&[64, 16]), of(&[32])).is_err()),
        ("a row too few", linear.forward_add(&variable(&[4, 16]), &variable(&[3, 48])).is_err()),
        (
            "an image too few",
            conv.forward_add(&variable(&[2, 8, 8, 16]), &variable(&[1, 8, 8, 32])).is_err(),
        ),
        ("a gradient of another size", conv.input_gradient(&of(&[1, 4, 4, 32]), (8, 8)).is_err()),
        ("a layer norm of another width", layer_norm.forward(&variable(&[3, 24])).is_err()),
        ("a group norm of others", group_norm.forward(&variable(&[1, 4, 4, 24])).is_err()),
        (
            "a shift too few",
            group_norm.forward_shifted_silu(&variable(&[2, 4, 4, 16]), &of(&[1, 16])).is_err(),
        ),
        ("a shift without a scale", LayerNorm::new(of(&[16]), of(&[8]), 1e-5).is_err()),
        ("a short gradient", adamw(&[63]).is_some()),
    ] {
        assert!(refused, "{what}");
    }
    assert!(adamw(&[64]).is_none());
}

#[test]
fn a_unet_refuses_fewer_timesteps_than_elements() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let base = BaseModel::load(&folder, &Device::Cpu).unwrap();
    let ids = base.prompt_encoder.tokenize("a dog", &[]).unwrap().ids;
    let features = base.prompt_encoder.encode(&[ids.clone(), ids], None).unwrap();
    let key_values = base.unet.project(&features).unwrap();
    let latents = Place::single(&Device::Cpu).put(&numbers(1, &[2, 16, 16, 4]));
    let recomputation = base
        .unet
        .recomputation(Activations::Keep, &latents.permute((0, 3, 1, 2)).unwrap())
        .unwrap();

    let layer = |layer: &KeyValue| {
        KeyValueVariable::new(layer.key.clone().into(), layer.value.clone().into())
    };
    let key_values = key_values.layers.iter().map(layer).collect();
    let traced = base.unet.trace(&latents, &[500.0], key_values, &recomputation);

    assert!(traced.is_err());
}

#[test]
fn fully_masked_queries_give_finite_values_and_gradients() {
    for lowest in [f32::MIN, f32::NEG_INFINITY] {
        let mask = move |place: &Place| {
            place.put(&Tensor::from_vec(vec![lowest; 5 * 7], (5, 7), &Device::Cpu).unwrap())
        };
        let op = operation("masked", &[&[2, 5, 8], &[2, 7, 8], &[2, 7, 8]], move |place, x| {
            attention(&x[0], &x[1], &x[2], 2, 0.5, Some(&mask(place)), place.precision)
        });
        for device in test_devices() {
            let (value, gradients) =
                op.value_and_gradients(&Place::single(&device), &op.inputs(), pull);
            for x in std::iter::once(&value).chain(&gradients) {
                assert!(flat(x).iter().all(|x| x.is_finite()), "{lowest}");
            }
        }
    }
}

#[test]
fn an_element_of_a_unet_alone_has_the_bytes_of_the_same_element_among_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let base = BaseModel::load(&folder, &Device::Cpu).unwrap();
    let place = Place::single(&Device::Cpu);
    let latents = place.put(&numbers(1, &[5, 4, 16, 16]));
    let text = place.put(&numbers(2, &[5, 77, base.prompt_encoder.hidden_size()]));
    let timesteps = [3.0, 999.0, 500.0, 12.0, 741.0];
    let predict = |first: usize, count: usize| {
        let conditioning = base.unet.project(&text.narrow(0, first, count).unwrap()).unwrap();
        let latents = latents.narrow(0, first, count).unwrap().contiguous().unwrap();
        base.unet.forward(&latents, &timesteps[first..first + count], &conditioning).unwrap()
    };
    let together = predict(0, 5);
    for element in 0..5 {
        let among = together.narrow(0, element, 1).unwrap();
        assert!(bits(&among) == bits(&predict(element, 1)), "element {element}");
    }
}

#[test]
fn products_of_views_are_those_of_copies() {
    for device in test_devices() {
        for (rows, depth, width) in [(5, 7, 3), (33, 200, 48), (150, 410, 96)] {
            let (a, b) = (numbers(1, &[rows, depth]), numbers(2, &[depth, width]));
            let expected = flat(&a.matmul(&b).unwrap());
            // As it is, or a view of its transpose.
            let both = |x: &Tensor| {
                let x = x.to_dtype(DType::F32).unwrap().to_device(&device).unwrap();
                let transposed = x.t().unwrap().contiguous().unwrap();
                [x, transposed.t().unwrap()]
            };
            for (a, b) in both(&a).iter().flat_map(|a| both(&b).map(|b| (a.clone(), b))) {
                let actual = flat(&ops::matmul(&a, &b).unwrap());
                for (actual, expected) in actual.iter().zip(&expected) {
                    let size = format!("{rows}×{depth}×{width}, {:?} {:?}", a.stride(), b.stride());
                    assert!((actual - expected).abs() < 5e-5, "{actual} for {expected}: {size}");
                }
            }
        }
    }
}
