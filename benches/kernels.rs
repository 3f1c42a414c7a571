//! How near our kernels come to what the machine can do: `cargo bench --bench kernels [-- [--bf16] FILTER]`.
//!
//! Each kernel of a Stable Diffusion 1.x step is timed at its real shapes (latents of 64×64, batch 1) with one thread
//! and with all. GFLOP/s count the definition's operations, so that a Winograd convolution can exceed the peak; the
//! share of the peak counts those that are really carried out. The peak is measured here: fused multiply-adds on
//! registers, nothing else.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use rayon::ThreadPool;
use vstar::allocator;
use vstar::engine::autograd::{Tape, Variable};
use vstar::engine::ops::{
    FrozenConv2d, FrozenLinear, FrozenWeight, Geglu, GroupNorm, InstructionSet, LayerNorm, Padding,
    Precision, attention,
};
use vstar::engine::random::{Purpose, Random};

/// As in the program: another would give every large result back to the system and have it cleared for the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seconds that one figure may take, at least three calls.
const BUDGET_SECS: f64 = 0.6;

fn main() -> candle_core::Result<()> {
    allocator::keep_freed_memory(allocator::KEPT);
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let pools: Vec<ThreadPool> = [1, most].into_iter().map(pool).collect();
    let peaks: Vec<f64> = pools.iter().map(peak_gflops).collect();
    println!(
        "peak, fused multiply-adds: {:.0} GFLOP/s on 1 thread, {:.0} on {most}\n",
        peaks[0], peaks[1]
    );
    println!(
        "| kernel | ms, 1 thread | GFLOP/s | of peak | ms, {most} threads | GFLOP/s | of peak | gain |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let is_bf16 = std::env::args().any(|argument| argument == "--bf16");
    for kernel in kernels(if is_bf16 { Precision::Bf16 } else { Precision::Fast })? {
        if filter.as_ref().is_some_and(|filter| !kernel.name.contains(filter.as_str())) {
            continue;
        }
        let seconds: Vec<f64> =
            pools.iter().map(|pool| pool.install(|| time(&kernel.call))).collect();
        let mut line = format!("| {} |", kernel.name);
        for (seconds, peak) in seconds.iter().zip(&peaks) {
            let gflops = kernel.flops / seconds / 1e9;
            let share = 100.0 * gflops * kernel.carried_out / peak;
            line += &format!(" {:.2} | {gflops:.0} | {share:.0} % |", seconds * 1e3);
        }
        println!("{line} {:.2}× |", seconds[0] / seconds[1]);
    }
    Ok(())
}

/// One call, and how many operations its definition has.
struct Kernel {
    name: String,
    flops: f64,
    /// The share of them that is carried out.
    carried_out: f64,
    call: Box<dyn Fn() + Send + Sync>,
}

impl Kernel {
    fn new(name: String, flops: usize, call: impl Fn() -> Tensor + Send + Sync + 'static) -> Self {
        let call = Box::new(move || drop(black_box(call())));
        Self { name, flops: flops as f64, carried_out: 1.0, call }
    }
}

fn kernels(precision: Precision) -> candle_core::Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for (batch, side, input, output) in [
        (8, 16, 48, 48),
        (8, 8, 96, 96),
        (8, 4, 144, 144),
        (8, 4, 288, 144),
        (4, 8, 320, 320),
        (4, 4, 320, 320),
        (8, 4, 192, 192),
        (8, 8, 128, 128),
        (8, 16, 64, 64),
        (4, 16, 160, 160),
        (2, 32, 320, 320),
        (2, 16, 640, 640),
        (2, 8, 1280, 1280),
        (2, 8, 2560, 1280),
        (2, 4, 1280, 1280),
        (1, 64, 320, 320),
        (1, 64, 960, 320),
        (1, 32, 640, 640),
        (1, 16, 1280, 1280),
        (1, 8, 1280, 1280),
    ] {
        let conv = FrozenConv2d::new(
            numbers(&[output, input, 3, 3])?,
            None,
            1,
            Padding::same(1),
            precision,
        )?;
        let flops = 2 * 9 * batch * side * side * input * output;
        // A tile of 16 pixels takes 36 products instead of 144, one of 4 pixels 16 instead of 36.
        let carried_out = if side > 4 { 36.0 / 144.0 } else { 16.0 / 36.0 };
        let x = numbers(&[batch, side, side, input])?;
        kernels.push(Kernel {
            carried_out,
            ..Kernel::new(format!("conv 3×3 {input}→{output} @{batch}×{side}"), flops, {
                let (conv, x) = (conv.clone(), Variable::from(&x));
                move || conv.forward(&x).expect("forward").into_tensor()
            })
        });
        let dy = numbers(&[batch, side, side, output])?;
        kernels.push(Kernel {
            carried_out,
            ..Kernel::new(
                format!("its gradient {input}→{output} @{batch}×{side}"),
                flops,
                move || conv.input_gradient(&dy, (side, side)).expect("backward"),
            )
        });
    }
    for (rows, input, output) in [
        (2048, 48, 384),
        (2048, 192, 48),
        (4096, 320, 2560),
        (4096, 320, 320),
        (1024, 640, 5120),
        (256, 1280, 10240),
        (77, 768, 3072),
    ] {
        let weight = FrozenWeight::from(numbers(&[output, input])?).with_precision(precision);
        let linear = FrozenLinear::new(weight, None)?;
        let flops = 2 * rows * input * output;
        let name = format!("{rows}×{input}→{output}");
        let (x, dy) = (numbers(&[rows, input])?, numbers(&[rows, output])?);
        kernels.extend(both_ways("linear", &name, (flops, 2 * flops), x, dy, move |x| {
            linear.forward(x)
        }));
    }
    for (batch, heads, queries, keys, head_dim) in [
        (1, 8, 4096, 4096, 40),
        (1, 8, 1024, 1024, 80),
        (1, 8, 256, 256, 160),
        (1, 8, 4096, 77, 40),
        (8, 4, 256, 256, 12),
        (8, 4, 256, 32, 12),
        (8, 4, 64, 64, 24),
        (4, 8, 1024, 1024, 10),
        (4, 8, 256, 256, 20),
        (8, 4, 256, 256, 16),
    ] {
        let inner = heads * head_dim;
        let (q, k) = (numbers(&[batch, queries, inner])?, numbers(&[batch, keys, inner])?);
        let flops = 4 * batch * queries * keys * inner;
        let name = format!("{batch}×{heads}×{queries}×{keys}×{head_dim}");
        let (k, scale) = (Variable::from(&k), (head_dim as f64).powf(-0.5));
        // Two products in the forward pass, five in the backward pass.
        let flops = (flops, flops * 7 / 2);
        kernels.extend(both_ways("attention", &name, flops, q.clone(), q, move |q| {
            attention(q, &k, &k, heads, scale, None, precision)
        }));
    }
    for (side, channels) in [(64, 320), (32, 640), (8, 1280)] {
        let norm = GroupNorm::new(numbers(&[channels])?, numbers(&[channels])?, 32, 1e-5)?;
        let x = Variable::from(numbers(&[1, side, side, channels])?);
        let flops = 12 * side * side * channels;
        kernels.push(Kernel::new(
            format!("group norm + SiLU {channels} @{side}"),
            flops,
            move || norm.forward_silu(&x).expect("forward").into_tensor(),
        ));
    }
    let norm = LayerNorm::new(numbers(&[320])?, numbers(&[320])?, 1e-5)?;
    let x = Variable::from(numbers(&[4096, 320])?);
    kernels.push(Kernel::new("layer norm 4096×320".to_owned(), 8 * 4096 * 320, move || {
        norm.forward(&x).expect("forward").into_tensor()
    }));
    for (rows, input, output) in [(2048, 48, 192), (4096, 320, 1280), (512, 640, 2560)] {
        let weight = FrozenWeight::from(numbers(&[2 * output, input])?).with_precision(precision);
        let layer = Geglu::new(weight, numbers(&[2 * output])?)?;
        let flops = 2 * rows * input * 2 * output;
        let name = format!("{rows}×{input}→{output}");
        let (x, dy) = (numbers(&[rows, input])?, numbers(&[rows, output])?);
        kernels.extend(both_ways("GEGLU", &name, (flops, 2 * flops), x, dy, move |x| {
            layer.forward(x)
        }));
    }
    Ok(kernels)
}

/// `function` of `x` alone, and with the gradient of `x` from `dy`; so many operations each.
fn both_ways(
    kind: &str,
    name: &str,
    (forward, with_gradient): (usize, usize),
    x: Tensor,
    dy: Tensor,
    function: impl Fn(&Variable) -> candle_core::Result<Variable> + Send + Sync + 'static,
) -> [Kernel; 2] {
    let function = Arc::new(function);
    let alone = {
        let (function, x) = (function.clone(), Variable::from(&x));
        move || function(&x).expect("forward").into_tensor()
    };
    let both = move || {
        let tape = Tape::default();
        let leaf = tape.leaf(x.clone());
        let y = function(&leaf).expect("forward");
        let mut gradients = tape.backward(&y, dy.clone()).expect("backward");
        gradients.take(&leaf).expect("a gradient")
    };
    [
        Kernel::new(format!("{kind} {name}"), forward, alone),
        Kernel::new(format!("{kind} with gradient {name}"), with_gradient, both),
    ]
}

fn numbers(shape: &[usize]) -> candle_core::Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    Random::new(0, Purpose::Noise, 0, shape.len() as u64).normals(&mut values);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Seconds of a call: the median.
fn time(call: &(dyn Fn() + Send + Sync)) -> f64 {
    call();
    let began = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < 3 || began.elapsed().as_secs_f64() < BUDGET_SECS {
        let start = Instant::now();
        call();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn pool(threads: usize) -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

/// Fused multiply-adds that all threads together do on their registers in a second, as 10⁹ operations.
fn peak_gflops(pool: &ThreadPool) -> f64 {
    const ROUNDS: usize = 20_000_000;
    let best = (0..5).map(|_| {
        let start = Instant::now();
        pool.broadcast(|_| black_box(multiply_add(ROUNDS)));
        start.elapsed().as_secs_f64()
    });
    let seconds = best.fold(f64::INFINITY, f64::min);
    (pool.current_num_threads() * ROUNDS * 2 * SUMS * lanes()) as f64 / seconds / 1e9
}

/// Independent sums: enough that none waits for its own last addition.
const SUMS: usize = 12;

/// Floats of a register.
fn lanes() -> usize {
    match InstructionSet::used() {
        InstructionSet::Avx512 => 16,
        InstructionSet::Avx2 => 8,
        InstructionSet::Neon | InstructionSet::Portable => 4,
    }
}

fn multiply_add(rounds: usize) -> f32 {
    match InstructionSet::used() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this CPU has the set in use.
        InstructionSet::Avx512 => unsafe { x86::avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: likewise.
        InstructionSet::Avx2 => unsafe { x86::avx2(rounds) },
        _ => {
            let fused = InstructionSet::used() == InstructionSet::Neon;
            let mut sums = [[0.5f32; 4]; SUMS];
            let (factor, step) = (black_box(0.999_f32), black_box(1e-3_f32));
            for _ in 0..rounds {
                for x in sums.as_flattened_mut() {
                    *x = if fused { x.mul_add(factor, step) } else { *x * factor + step };
                }
            }
            sums.as_flattened().iter().sum()
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(rounds: usize) -> f32 {
        let mut sums = [_mm512_set1_ps(0.5); SUMS];
        let (factor, step) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(1e-3));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, step);
            }
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(rounds: usize) -> f32 {
        let mut sums = [_mm256_set1_ps(0.5); SUMS];
        let (factor, step) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(1e-3));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, step);
            }
        }
        sums.iter().map(|sum| _mm256_cvtss_f32(*sum)).sum()
    }
}
