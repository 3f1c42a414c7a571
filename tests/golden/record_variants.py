"""Records golden cases for models of other shapes than those that are committed here.

    python tests/golden/record_variants.py OUT && GOLDEN_DIR=OUT cargo test --release --test golden

Needs torch, diffusers and transformers. The models are random and small; each stretches one thing: the number of
levels, heads per level, odd latent sizes, half precision, sharded files, old names of weights, special tokens.
Kinds: tokenize, text_encoder, vae_encode, vae_decode, unet, sample (see README.md).
"""

import gzip
import json
import random
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SOURCE = Path(__file__).parent / "sd1" / "model"
ADDED_TOKENS = ["<new1>", "<new2>"]
CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

PROMPTS = [
    "", " ", "\t\n", "  a  b  ", "it's they've I'm we'll he'd don't", "IT'S THEY'VE ab'S", "o'clock rock'n'roll ''' '",
    "’s curly’s", "1234 3.14e-10 v2.1 1st x86_64", "snake_case __init__ _a_ under_score's", "<new1>", "<NEW1><new2>",
    "a<new1>b", "<new1 > < new1> <<new1>>", "<new1>'s <new1>1 <new12>", "<New1>, <nEw2>!", "<|endoftext|>",
    "a <|STARTOFTEXT|> foo<|endoftext|>bar", "!!! wow ! hello!world ?!...", "#tag @user $5 %50 ^&*()[]{}|\\/:;\"~`",
    "café cafe\u0301 Ångström ẞ", "İstanbul ıI ΟΔΟΣ Σς Привет", "日本語 한국어 العربية हिन्दी", "🐶 🐕‍🦺 👨‍👩‍👧", "½ ² Ⅳ ① ٣",
    "a\u00a0b\u2003c\u3000d\u200be\ufefff", "a\0b\x01c\x1bd", "a\tb\nc\rd\x0be\x0cf\x1cg\x85h", "\u2028l\u2029p\u180e",
    "x" * 300, "a " * 200, "photo of a <new1> dog " * 30, "🐶" * 40, "ﬁ ŉ ǰ \u212b \u212a \u1e9b\u0323 Dž", "1a2b -_- a--b",
]  # fmt: skip
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCZ   \t\n'''0129_-.,!?<>|#éÉßİ日🐶\u0301\u00a0\u200b\0\x85½²"


def main(out: Path) -> None:
    torch.manual_seed(0)
    random.seed(0)
    prompts = PROMPTS + ["".join(random.choices(ALPHABET, k=random.randint(1, 40))) for _ in range(300)]
    for name, edit in TOKENIZERS.items():
        record_tokenizer(out / "tokenizer" / name, edit, prompts)
    for name, variant in MODELS.items():
        record_model(out / "model" / name, **variant)


# Tokenizers


def edit_config(folder: Path, **fields) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def as_added_tokens(folder: Path) -> None:
    """Special tokens as objects that are matched after lower-casing, as SD 1.5 publishes them."""
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    tokens = {key: {"content": content} | flags for key, content in names.items()}
    edit_config(folder, **{key: {"__type": "AddedToken"} | token for key, token in tokens.items()})
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens | {"pad_token": "<|endoftext|>"}))


def pad_with_exclamation(folder: Path) -> None:
    """SD 2's padding, named in the config and listed among the added tokens."""
    token = {"content": "!", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    edit_config(folder, pad_token="!", added_tokens_decoder={"0": token})


def without_some_bytes(folder: Path) -> None:
    """A vocabulary with holes, so that the unknown token shows."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    lost = {"Ã", "é", "Ã</w>", "_", "_</w>", "9</w>", "z"}
    kept = [entry for entry in vocabulary if entry not in lost]
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(kept)}))
    merges = (folder / "merges.txt").read_text().split("\n")
    (folder / "merges.txt").write_text("\n".join(m for m in merges if not lost & set(m.split(" "))))


def one_file(folder: Path) -> None:
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.json").unlink(missing_ok=True)
    (folder / "merges.txt").unlink(missing_ok=True)


TOKENIZERS = {
    "plain": lambda folder: None,
    "limit_12": lambda folder: edit_config(folder, model_max_length=12),
    "as_added_tokens": as_added_tokens,
    "pad_with_exclamation": pad_with_exclamation,
    "without_some_bytes": without_some_bytes,
    "one_file": one_file,
}


def record_tokenizer(out: Path, edit, prompts: list[str]) -> None:
    folder = out / "model" / "tokenizer"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(SOURCE / "tokenizer", folder)
    edit(folder)
    cases = []
    for added in [[], ADDED_TOKENS]:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(added)
        limit = tokenizer.model_max_length
        for i, prompt in enumerate(prompts):
            ids = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True).input_ids
            case = {"kind": "tokenize", "name": f"{i}.{len(added)}", "prompt": prompt, "input_ids": ids}
            cases.append(case | ({"added_tokens": added} if added else {}))
    write(out, cases, {"unused": torch.zeros(1)})


# Models

MODELS = {
    "plain": {},
    "one_level": {
        "unet": {"block_out_channels": (24,), "down_block_types": (CROSS_DOWN,), "up_block_types": (CROSS_UP,), "attention_head_dim": 3},
        "vae": {"block_out_channels": (8,)},
        "text": {"hidden_act": "gelu"},
        "limit": 10,
    },
    "five_levels": {
        "unet": {
            "block_out_channels": (8, 16, 24, 32, 32),
            "down_block_types": (CROSS_DOWN, DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
            "up_block_types": (CROSS_UP, UP, CROSS_UP, UP, CROSS_UP),
            "attention_head_dim": [2, 4, 3, 8, 4],
            "layers_per_block": [1, 2, 1, 3, 1],
            "transformer_layers_per_block": [1, 2, 3, 1, 2],
            "use_linear_projection": True,
            "norm_num_groups": 4,
        },
        "vae": {"block_out_channels": (4, 8, 8, 16, 16), "layers_per_block": 2},
        "limit": 16,
    },
    "heads_that_do_not_divide": {
        "unet": {"attention_head_dim": 5, "flip_sin_to_cos": False, "freq_shift": 1, "time_embedding_dim": 48, "norm_eps": 1e-3},
        "vae": {"use_quant_conv": False, "use_post_quant_conv": False},
        "text": {"layer_norm_eps": 1e-3},
    },
    "eight_latent_channels": {
        "unet": {"in_channels": 8, "out_channels": 8, "conv_in_kernel": 5, "conv_out_kernel": 1},
        "vae": {"latent_channels": 8, "mid_block_add_attention": False},
    },
    "no_middle": {"unet": {"mid_block_type": None}},
    "odd_width": {"unet": {"block_out_channels": (15, 30), "norm_num_groups": 5, "attention_head_dim": 3}},
    "half_in_shards_with_old_names": {"dtype": torch.float16, "shards": "100KB", "old_names": True},
    "bfloat16": {"dtype": torch.bfloat16},
}  # fmt: skip


def record_model(out: Path, unet={}, vae={}, text={}, limit=77, dtype=torch.float32, shards="10GB", old_names=False) -> None:
    folder = out / "model"
    shutil.rmtree(out, ignore_errors=True)
    for part in ["tokenizer", "scheduler"]:
        shutil.copytree(SOURCE / part, folder / part)
    edit_config(folder / "tokenizer", model_max_length=limit)
    vocabulary = json.loads((SOURCE / "text_encoder" / "config.json").read_text())["vocab_size"]

    text = {"hidden_size": 40, "intermediate_size": 100, "num_attention_heads": 4, "num_hidden_layers": 2} | text
    text_encoder = CLIPTextModel(CLIPTextConfig(**text, vocab_size=vocabulary, max_position_embeddings=limit))
    unet = {
        "block_out_channels": (16, 32), "down_block_types": (CROSS_DOWN, DOWN), "up_block_types": (UP, CROSS_UP),
        "layers_per_block": 1, "attention_head_dim": 2, "norm_num_groups": 8, "cross_attention_dim": text["hidden_size"],
    } | unet  # fmt: skip
    vae = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.7} | vae
    levels = len(vae["block_out_channels"])
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    unet_model, vae_model = UNet2DConditionModel(**unet), AutoencoderKL(**vae)
    models = {"text_encoder": text_encoder, "unet": unet_model, "vae": vae_model}
    for name, model in models.items():
        randomize(model.to(dtype)).save_pretrained(folder / name, max_shard_size=shards if name == "unet" else "10GB")
        model.float().eval()
    if old_names:
        rename_as_before(folder)

    cases, tensors = [], {}

    def record(kind: str, given: dict, expected: dict, tolerance: float) -> None:
        name = f"{kind}.{sum(case['kind'] == kind for case in cases)}"
        keys = {key: f"{name}.{key}" for key in given | expected}
        tensors.update({keys[key]: value.contiguous() for key, value in (given | expected).items()})
        cases.append({"kind": kind, "name": name, "tolerance": tolerance} | keys)

    with torch.no_grad():
        ids = torch.randint(0, vocabulary, (3, limit))
        record("text_encoder", {"input_ids": ids}, {"last_hidden_state": text_encoder(ids).last_hidden_state}, 2e-5)
        image = torch.rand(2, 3, 6 * 2 ** (levels - 1), 5 * 2 ** (levels - 1)) * 2 - 1
        posterior = vae_model.encode(image).latent_dist
        record("vae_encode", {"image": image}, {"mean": posterior.mean, "std": posterior.std}, 1e-4)
        latent = torch.randn(2, vae_model.config.latent_channels, 7, 5)
        record("vae_decode", {"latent": latent}, {"image": vae_model.decode(latent).sample}, 1e-4)
        for batch, height, width, tokens in [(1, 16, 16, limit), (3, 17, 19, 5), (2, 23, 34, limit)]:
            sample = torch.randn(batch, unet_model.config.in_channels, height, width)
            given = {"sample": sample, "timesteps": torch.randint(0, 1000, (batch,))}
            given["encoder_hidden_states"] = torch.randn(batch, tokens, text["hidden_size"])
            prediction = unet_model(sample, given["timesteps"], given["encoder_hidden_states"]).sample
            record("unet", given, {"model_pred": prediction}, 1e-4)
        record_sample(cases, tensors, models, CLIPTokenizer.from_pretrained(folder / "tokenizer"))
    write(out, cases, tensors)


def record_sample(cases: list[dict], tensors: dict, models: dict, tokenizer) -> None:
    """Three images in a batch, the second with a delta, prompts cut to the model's limit."""
    unet, vae, limit = models["unet"], models["vae"], tokenizer.model_max_length
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    config |= {"prediction_type": random.choice(["epsilon", "v_prediction"]), "clip_sample": False}
    base = {name: value.clone() for name, value in unet.state_dict().items()}
    delta = {n: v + 0.2 * torch.randn_like(v) for n, v in base.items() if "attn2.to_k" in n or "attn2.to_v" in n}
    requests = [("photo of a dog", "", None), ("a cat and a <word>", "a chair", 0), ("painting " * 8, "", None)]

    latents = torch.randn(3, unet.config.in_channels, 9, 12)
    images = []
    for i, (prompt, negative_prompt, uses) in enumerate(requests):
        unet.load_state_dict(base | (delta if uses is not None else {}))
        prompts = [negative_prompt, prompt]
        ids = tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
        hidden = models["text_encoder"](ids).last_hidden_state
        scheduler = DDIMScheduler.from_config(config)
        scheduler.set_timesteps(5)
        sample = latents[i : i + 1] * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            negative, positive = unet(torch.cat([sample, sample]), t, hidden).sample.chunk(2)
            sample = scheduler.step(negative + 3 * (positive - negative), t, sample).prev_sample
        images.append((vae.decode(sample / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1))
    unet.load_state_dict(base)
    tensors |= {"sample.latents": latents, "sample.images": torch.cat(images)}
    tensors |= {f"sample.{name}": value for name, value in delta.items()}
    keys = ["prompt", "negative_prompt", "delta"]
    cases.append({
        "kind": "sample", "name": "sample.0", "requests": [dict(zip(keys, request)) for request in requests],
        "deltas": [{name: f"sample.{name}" for name in delta}], "scheduler": "ddim", "scheduler_config": config,
        "num_inference_steps": 5, "guidance_scale": 3.0, "init_latents": "sample.latents", "images": "sample.images",
        "tolerance": 1e-3,
    })  # fmt: skip


def randomize(model):
    """Random norms and biases too, so that one that is skipped or swapped shows."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    return model


def rename_as_before(folder: Path) -> None:
    """Weights under the names of older checkpoints."""
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name}": value for name, value in load_file(path).items()}
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)

    path = next((folder / "vae").glob("*.safetensors"))
    weights = load_file(path)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        for name in [name for name in weights if f"attentions.0.{new}." in name]:
            value = weights.pop(name)
            value = value[..., None, None] if name.endswith("weight") else value
            weights[name.replace(f".{new}.", f".{old}.")] = value.contiguous()
    save_file(weights, path)


def write(out: Path, cases: list[dict], tensors: dict) -> None:
    (out / "cases.safetensors.gz").write_bytes(gzip.compress(save(tensors), mtime=0))
    (out / "cases.json").write_text(json.dumps({"flavour": out.name, "cases": cases}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
