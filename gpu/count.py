#!/usr/bin/env python3
"""Counts what a step of a UNet takes on a GPU, from its config alone: operations, bytes and kernel launches.

    gpu/count.py [--config unet/config.json] [--batch 8] [--latent 64] [--train] [--by-kind]

Prints the time below which no program can be: by arithmetic, by memory, and by launches at 5 µs each, for several cards.
`tensors` is the engine in candle's tensors, `kernels` with the kernels of `src/engine/ops/cuda`, cuDNN's convolutions
and cuBLASLt's products. Without --config it is Stable Diffusion 1.5. The bytes are those that must pass through the
card's memory if nothing stays in a cache between two launches.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SD15 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}

# Dense bf16 with f32 sums, TFLOP/s, and memory in TB/s, as the vendor's datasheets have them.
CARDS = {"H100 SXM": (989, 3.35), "A100 80GB": (312, 2.04), "RTX 4090": (165, 1.01)}
LAUNCH = 5e-6
BF16, F32 = 2, 4
TOKENS = 77
# Queries whose logits the tensor code has in memory at once, the numbers of one of its chunks, and those that kernels gather at
# once for a convolution.
QUERIES, CHUNK, UNFOLDED = 512, 1 << 24, 1 << 27


@dataclass
class Cost:
    """Of one operation: operations, and for each way of computing it bytes and launches."""

    flops: float = 0.0
    tensor_bytes: float = 0.0
    tensor_launches: float = 0.0
    kernel_bytes: float = 0.0
    kernel_launches: float = 0.0

    def __add__(self, other):
        return Cost(*(a + b for a, b in zip(self.parts(), other.parts())))

    def parts(self):
        return (self.flops, self.tensor_bytes, self.tensor_launches, self.kernel_bytes, self.kernel_launches)


@dataclass
class Count:
    """The sum, by kind of operation, forward and backward."""

    batch: int
    train: bool
    tracked: bool = False
    by_kind: dict = field(default_factory=lambda: defaultdict(Cost))

    def add(self, kind, forward, backward=None):
        self.by_kind[kind] += forward
        if self.train and self.tracked and backward is not None:
            self.by_kind[kind + ", backward"] += backward

    def total(self):
        return sum(self.by_kind.values(), Cost())

    # Each method counts one call of one layer; `numbers` is what an image tensor has.

    def gemm(self, kind, rows, inputs, outputs, bias, adds):
        flops = 2.0 * rows * inputs * outputs
        least = BF16 * (rows * inputs + inputs * outputs + rows * outputs)
        beside = 2 * BF16 * rows * outputs
        tensors = Cost(flops, least + beside * bias + (beside + BF16 * rows * outputs) * adds, 1 + bias + adds)
        # By cuBLASLt in one pass, with what is added.
        tensors.kernel_bytes, tensors.kernel_launches = least + BF16 * rows * outputs * adds, 1
        self.add(kind, tensors, Cost(flops, least, 1, least, 1))

    def conv(self, side, channels, out, kernel=3, stride=1, adds=0):
        if kernel == 1:
            return self.gemm("1×1 convolution", self.batch * side * side, channels, out, 1, adds)
        into = self.batch * side * side * channels
        rows = self.batch * (side // stride) ** 2
        unfolded = rows * kernel**2 * channels
        flops = 2.0 * unfolded * out
        result, weights = BF16 * rows * out, BF16 * kernel**2 * channels * out
        chunks = -(-unfolded // CHUNK)
        # Padded twice, nine strided copies, joined, multiplied, bias added.
        copies = BF16 * (4 * into + 4 * unfolded + unfolded)
        tensors = Cost(flops, copies + 3 * result + weights + 3 * result * adds, (4 + 9 + 9 + 1) * chunks + 1 + adds)
        back = rows * kernel**2 * out * stride**2
        backward = Cost(2.0 * unfolded * out, BF16 * (5 * back) + 2 * weights + BF16 * into, 24 * -(-back // CHUNK) + 2)
        if channels % 8 == 0 and out % 8 == 0:
            # By cuDNN in one pass; bias and the other summand in another.
            tensors.kernel_bytes, tensors.kernel_launches = BF16 * into + weights + (3 + adds) * result, 2
            backward.kernel_bytes, backward.kernel_launches = BF16 * into + weights + result, 1
            self.add("3×3 convolution", tensors, backward)
            return None
        # Unfolded in one pass, multiplied; bias and the other summand in one pass. Chunks are copied together.
        chunks = -(-unfolded // UNFOLDED)
        copied = 0 if chunks == 1 else chunks
        tensors.kernel_bytes = BF16 * (into + 2 * unfolded) + weights + (3 + adds) * result + (2 * result if copied else 0)
        tensors.kernel_launches = 2 * chunks + 1 + copied
        chunks = -(-back // UNFOLDED)
        backward.kernel_bytes = BF16 * (rows * out + 2 * back + into) + 3 * weights
        backward.kernel_launches = 2 * chunks + 1 + (0 if chunks == 1 else chunks)
        self.add("3×3 convolution", tensors, backward)

    def norm(self, kind, numbers, silu):
        steps, back = (22, 34) if silu else (15, 20)
        self.add(
            kind,
            Cost(12.0 * numbers, numbers * (2 * BF16 + 2 * F32 * (steps - 6)), steps, 2 * BF16 * numbers, 1),
            Cost(25.0 * numbers, numbers * (3 * BF16 + 2 * F32 * (back - 8)), back, 3 * BF16 * numbers, 1),
        )

    def attention(self, kind, queries, keys, heads, head_dim):
        logits = float(self.batch * heads * queries * keys)
        inner = heads * head_dim
        vectors = BF16 * self.batch * (2 * queries + 2 * keys) * inner
        flops = 4.0 * logits * head_dim
        blocks = -(-queries // QUERIES) * -(-self.batch * heads * min(queries, QUERIES) * keys // CHUNK)
        # A logit is written, widened, scaled, shifted, raised, summed, divided, narrowed and read: 56 bytes.
        tensors = Cost(flops, 56 * logits + 3 * vectors, 13 * blocks + 4, vectors, 1)
        backward = Cost(2.5 * flops, 140 * logits + 4 * vectors, 34 * blocks + 6, 2.5 * vectors, 3)
        self.add(kind, tensors, backward)

    def geglu(self, rows, inner):
        self.gemm("projections", rows, inner, 8 * inner, 1, 0)
        gate = rows * 4 * inner
        self.add(
            "GEGLU",
            Cost(15.0 * gate, gate * (8 * BF16 + 18 * F32), 14, 3 * BF16 * gate, 1),
            Cost(30.0 * gate, gate * (12 * BF16 + 40 * F32), 30, 5 * BF16 * gate, 1),
        )


def count(config, batch, latent, train):
    """A call of the UNet, and the backward pass of a training step."""
    channels = config["block_out_channels"]
    levels = len(channels)
    per_level = lambda name, default: (
        value if isinstance(value := config.get(name, default), list) else [value] * levels
    )
    layers, heads = per_level("layers_per_block", 2), per_level("attention_head_dim", 8)
    down, up = config["down_block_types"], config["up_block_types"]
    side = [latent >> level for level in range(levels)]
    c = Count(batch, train)
    numbers = lambda level, width: batch * side[level] ** 2 * width

    def layer(level, inputs, attends):
        out, n = channels[level], side[level] ** 2
        c.norm("GroupNorm", numbers(level, inputs), True)
        c.conv(side[level], inputs, out)
        c.norm("GroupNorm", numbers(level, out), True)
        if inputs != out:
            c.conv(side[level], inputs, out, kernel=1)
        c.conv(side[level], out, out, adds=1)
        if not attends:
            return
        rows, h = batch * n, heads[level]
        inner = h * (out // h)
        c.norm("GroupNorm", numbers(level, out), False)
        c.gemm("projections", rows, out, inner, 1, 0)
        c.norm("LayerNorm", rows * inner, False)
        for _ in range(3):
            c.gemm("projections", rows, inner, inner, 0, 0)
        c.attention("self-attention", n, n, h, inner // h)
        c.gemm("projections", rows, inner, inner, 1, 1)
        c.norm("LayerNorm", rows * inner, False)
        c.gemm("projections", rows, inner, inner, 0, 0)
        # From the first attention to the prompt on, gradients are taken.
        c.tracked = True
        c.attention("cross-attention", n, TOKENS, h, inner // h)
        c.gemm("projections", rows, inner, inner, 1, 1)
        c.norm("LayerNorm", rows * inner, False)
        c.geglu(rows, inner)
        c.gemm("projections", rows, 4 * inner, inner, 1, 1)
        c.gemm("projections", rows, inner, out, 1, 1)

    c.conv(side[0], config.get("in_channels", 4), channels[0])
    skips, before = [channels[0]], channels[0]
    for level in range(levels):
        for _ in range(layers[level]):
            layer(level, before, down[level].startswith("CrossAttn"))
            before = channels[level]
            skips.append(before)
        if level + 1 < levels:
            c.conv(side[level], before, before, stride=2)
            skips.append(before)
    layer(levels - 1, before, True)
    layer(levels - 1, before, False)
    for level in reversed(range(levels)):
        for _ in range(layers[level] + 1):
            skip = skips.pop()
            joined = numbers(level, before + skip)
            c.add("joins", Cost(0, 2 * BF16 * joined, 2, 2 * BF16 * joined, 2), Cost(0, 2 * BF16 * joined, 2, 2 * BF16 * joined, 2))
            layer(level, before + skip, up[levels - 1 - level].startswith("CrossAttn"))
            before = channels[level]
        if level:
            larger = numbers(level - 1, before)
            c.add("upsampling", Cost(0, 1.25 * BF16 * larger, 1, 1.25 * BF16 * larger, 1), Cost(0, 1.25 * BF16 * larger, 4, 1.25 * BF16 * larger, 1))
            c.conv(side[level - 1], before, before)
    c.norm("GroupNorm", numbers(0, before), True)
    c.conv(side[0], before, config.get("out_channels", 4))
    if train:
        width = config["cross_attention_dim"]
        inner = sum(channels[level] for level in range(levels) for _ in range(layers[level] if down[level].startswith("CrossAttn") else 0))
        inner += channels[-1]
        inner += sum(channels[level] for level in range(levels) for _ in range(layers[level] + 1 if up[levels - 1 - level].startswith("CrossAttn") else 0))
        trained = 2 * inner * width
        flops = 2.0 * batch * TOKENS * trained
        layers_kv = 2 * (inner and sum(1 for _ in range(16)))
        c.by_kind["keys, values and their gradients"] += Cost(3 * flops, 3 * F32 * trained, 12 * layers_kv, 3 * F32 * trained, 6 * layers_kv)
        c.by_kind["clipping and AdamW"] += Cost(20.0 * trained, 14 * F32 * trained * 2, 16 * layers_kv, 8 * F32 * trained, 3 * layers_kv)
    return c


def table(c, by_kind):
    total = c.total()
    lines = ["| what | TFLOP | GB: tensors, kernels | launches: tensors, kernels |", "|---|---|---|---|"]
    rows = sorted(c.by_kind.items(), key=lambda row: -row[1].tensor_bytes) if by_kind else []
    for kind, cost in [*rows, ("**all**", total)]:
        lines.append(
            f"| {kind} | {cost.flops / 1e12:.2f} | {cost.tensor_bytes / 1e9:.1f}, {cost.kernel_bytes / 1e9:.1f} "
            f"| {cost.tensor_launches:.0f}, {cost.kernel_launches:.0f} |"
        )
    lines += ["", "| card | by arithmetic | by memory: tensors, kernels | launches × 5 µs: tensors, kernels |", "|---|---|---|---|"]
    ms = lambda seconds: f"{1e3 * seconds:.1f}"
    for card, (tflops, tbytes) in CARDS.items():
        lines.append(
            f"| {card} | {ms(total.flops / tflops / 1e12)} ms | {ms(total.tensor_bytes / tbytes / 1e12)}, "
            f"{ms(total.kernel_bytes / tbytes / 1e12)} ms | {ms(total.tensor_launches * LAUNCH)}, {ms(total.kernel_launches * LAUNCH)} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--by-kind", action="store_true")
    options = parser.parse_args()
    config = json.loads(options.config.read_text()) if options.config else SD15
    print(table(count(config, options.batch, options.latent, options.train), options.by_kind))
