"""The baseline of gpu/check: diffusers on PyTorch, in one process that keeps its models, one JSON line for each line it is sent.

    python gpu/torch_server.py MODEL_DIR --device cuda --dtype bfloat16

Sent: {"what": "denoise", "batch": 8, "latent": 64, "repeat": 5, "compile": false}. The work is that of
benches/baselines/torch_baseline.py; `ceiling` is a large matrix product and a copy, `profile` names the kernels of one call.
"""

import argparse
import json
import statistics
import sys
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--device", default="cuda")
parser.add_argument("--dtype", default="bfloat16")
options = parser.parse_args()
DEVICE, DTYPE = options.device, getattr(torch, options.dtype)
ON_GPU = DEVICE != "cpu"
torch.manual_seed(0)
torch.set_default_device(DEVICE)
loaded = {}


def once(name, make):
    if name not in loaded:
        loaded[name] = make()
    return loaded[name]


def frozen(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(DEVICE).eval()


def unet():
    from diffusers import UNet2DConditionModel

    return frozen(UNet2DConditionModel.from_pretrained(options.model, subfolder="unet", torch_dtype=DTYPE))


def vae():
    from diffusers import AutoencoderKL

    return frozen(AutoencoderKL.from_pretrained(options.model, subfolder="vae", torch_dtype=DTYPE))


def text_encoder(dtype):
    from transformers import CLIPTextModel

    return frozen(CLIPTextModel.from_pretrained(options.model, subfolder="text_encoder").to(dtype))


def compiled(name, model, wanted):
    return once(name + ", compiled", lambda: torch.compile(model, fullgraph=True)) if wanted else model


def denoise(batch, latent, compile):
    model = once("unet", unet)
    x = torch.randn(batch, 4, latent, latent, dtype=DTYPE)
    t = torch.randint(0, 1000, (batch,))
    c = torch.randn(batch, 77, model.config.cross_attention_dim, dtype=DTYPE)
    model = compiled("unet", model, compile)

    def call():
        with torch.inference_mode():
            model(x, t, c)

    return call


def train(batch, latent, compile):
    """Latents are given. `train_from_photos` encodes in the loop, as diffusers' own script does."""
    model = once("trained unet", unet)
    text = once("trained text encoder", lambda: text_encoder(torch.float32))
    keys_values = [p for n, p in model.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n]
    for parameter in keys_values:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    embeddings = text.get_input_embeddings()
    embeddings.weight.requires_grad_(True)
    vocabulary = text.config.vocab_size
    row = vocabulary - 3
    optimizer = torch.optim.AdamW([*keys_values, embeddings.weight], lr=8e-5, weight_decay=1e-2)
    x = torch.randn(batch, 4, latent, latent)
    noise, t = torch.randn_like(x), torch.randint(0, 1000, (batch,))
    ids = torch.randint(0, row, (batch, text.config.max_position_embeddings))
    ids[: batch // 2 or 1, 4] = row
    keep = torch.zeros(vocabulary, 1)
    keep[row] = 1
    run = compiled("trained unet", model, compile)

    def call():
        with torch.autocast(DEVICE, DTYPE, enabled=DTYPE != torch.float32):
            loss = ((run(x, t, text(ids)[0]).sample.float() - noise) ** 2).mean()
        loss.backward()
        embeddings.weight.grad.mul_(keep)
        torch.nn.utils.clip_grad_norm_([*keys_values, embeddings.weight], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def train_from_photos(batch, latent, compile):
    model = once("vae", vae)
    step = train(batch, latent, compile)
    images = torch.randn(batch, 3, 8 * latent, 8 * latent, dtype=DTYPE)

    def call():
        with torch.no_grad():
            model.encode(images).latent_dist.sample()
        step()

    return call


def vae_encode(batch, latent, compile):
    model = once("vae", vae)
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    x = torch.randn(batch, 3, factor * latent, factor * latent, dtype=DTYPE)

    def call():
        with torch.inference_mode():
            model.encode(x).latent_dist.mean

    return call


def vae_decode(batch, latent, compile):
    model = once("vae", vae)
    x = torch.randn(batch, 4, latent, latent, dtype=DTYPE)

    def call():
        with torch.inference_mode():
            model.decode(x).sample

    return call


def text(batch, latent, compile):
    model = once("text encoder", lambda: text_encoder(DTYPE))
    ids = torch.randint(0, model.config.vocab_size - 3, (batch, model.config.max_position_embeddings))

    def call():
        with torch.inference_mode():
            model(ids)

    return call


def timed(call, repeat):
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        if ON_GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def ceiling():
    """What the card gives at most: a large matrix product on random numbers, and a copy."""
    size = 8192 if ON_GPU else 512
    a, b = (torch.randn(size, size, dtype=DTYPE) for _ in range(2))
    block = torch.empty(2**30 if ON_GPU else 2**24, dtype=torch.uint8)
    other = torch.empty_like(block)
    timed(lambda: torch.matmul(a, b), 3), timed(lambda: other.copy_(block), 3)
    product = statistics.median(timed(lambda: torch.matmul(a, b), 10))
    copy = statistics.median(timed(lambda: other.copy_(block), 10))
    return {"tflops": 2 * size**3 / product / 1e12, "bytes_per_s": 2 * block.numel() / copy}


def profile(asked):
    from torch.profiler import ProfilerActivity, profile as profiled

    call = globals()[asked["of"]](asked["batch"], asked["latent"], False)
    call()
    activities = [ProfilerActivity.CUDA] if ON_GPU else [ProfilerActivity.CPU]
    with profiled(activities=activities) as profiler:
        timed(call, 1)
    events = [(e.key, e.count, (e.self_device_time_total if ON_GPU else e.self_cpu_time_total)) for e in profiler.key_averages()]
    events = sorted((e for e in events if e[2] > 0), key=lambda e: -e[2])
    return {"launches": sum(e[1] for e in events), "kernels": [{"name": n[:90], "count": c, "ms": t / 1e3} for n, c, t in events[:10]]}


WORK = {f.__name__: f for f in (denoise, train, train_from_photos, vae_encode, vae_decode, text)}


def answer(asked):
    if asked["what"] == "ceiling":
        return ceiling()
    if asked["what"] == "profile":
        return profile(asked)
    if ON_GPU:
        torch.cuda.empty_cache()
        before = torch.cuda.mem_get_info()[0]
        torch.cuda.reset_peak_memory_stats()
    call = WORK[asked["what"]](asked["batch"], asked["latent"], asked.get("compile", False))
    first = timed(call, 1)[0]
    seconds = timed(call, asked["repeat"])
    memory = {}
    if ON_GPU:
        memory = {"peak_reserved_mib": torch.cuda.max_memory_reserved() >> 20, "taken_mib": (before - torch.cuda.mem_get_info()[0]) >> 20}
    return {"seconds_median": statistics.median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds), "first_s": first, **memory}


print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name() if ON_GPU else "cpu"}), flush=True)
for line in sys.stdin:
    try:
        result = answer(json.loads(line))
    except Exception as error:  # one row that fails does not hide the next
        result = {"error": f"{type(error).__name__}: {error}"[:500]}
    print(json.dumps(result), flush=True)
