"""Records what transformers' CLIP answers: pixel values, features of images and texts, logits.

    python tests/golden/record_clip.py                     # makes clip_openai/ and clip_openclip/ anew
    python tests/golden/record_clip.py MODEL_DIR OUT_DIR   # records cases for a model that exists

Needs torch, transformers and pillow before 13, which changed the order of its two passes for some images. The two random models follow OpenAI's published folders (quick_gelu, end token 2
in the config, f16, preprocessor settings of 2021) and OpenCLIP's (gelu, the tokenizer's own end token, padding with
`!`), with an image size that the patch size does not divide. Their tokenizers are those of `sd1` and `sd2`.
"""

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

HERE = Path(__file__).parent
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# Width and height: ratios, odd margins, one that needs no resizing, one that is enlarged.
SIZES = [(61, 43), (37, 90), (31, 31), (12, 17), (128, 100)]
TEXTS = ["a photo of a dog", "", "a cat # 3!", "A red   CASTLE, by the sea", "word " * 100]
PREPROCESSORS = {
    "squashed": {"size": {"height": 31, "width": 31}},
    "size_as_a_number": {"size": 31, "crop_size": 31},
    "odd_margins": {"size": {"shortest_edge": 40}},
    "padded": {"size": {"shortest_edge": 20}},
    "bilinear": {"size": {"shortest_edge": 31}, "resample": 2},
    "cropped_only": {"do_resize": False},
    "not_normalized": {"size": {"shortest_edge": 31}, "do_normalize": False},
    "own_scale": {"size": {"shortest_edge": 31}, "rescale_factor": 0.5, "image_mean": [1.0, 2.0, 3.0], "image_std": [4.0, 5.0, 6.0]},
}  # fmt: skip


def images() -> list[np.ndarray]:
    """Slopes under noise, so that antialiasing and overshoot both show."""
    rng = np.random.default_rng(7)
    made = []
    for width, height in SIZES:
        y, x, c = np.mgrid[0:height, 0:width, 0:3]
        slope = 120 + 90 * np.sin(x / 7 + c) + 60 * np.cos(y / 5 - c)
        noise = rng.integers(-90, 90, size=(height, width, 3)) * (rng.random((height, width, 1)) < 0.4)
        made.append(np.clip(slope + noise, 0, 255).astype(np.uint8))
    return made


def make_model(folder: Path, config: dict, tokenizer: str, preprocessor: dict, dtype: torch.dtype) -> None:
    torch.manual_seed(11)
    model = CLIPModel(CLIPConfig(**config))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "logit_scale":
                weight.fill_(2.5)
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            elif weight.dim() == 1:
                weight.copy_(0.2 * torch.randn_like(weight))
            elif "embedding" in name:
                weight.copy_(0.3 * torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
    folder.mkdir(parents=True)
    weights = {name: weight.to(dtype).contiguous() for name, weight in model.state_dict().items()}
    if dtype == torch.float16:  # as transformers wrote them until 2023
        for part in ("text_model", "vision_model"):
            positions = weights[f"{part}.embeddings.position_embedding.weight"].shape[0]
            weights[f"{part}.embeddings.position_ids"] = torch.arange(positions).unsqueeze(0)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")
    for file in (HERE / tokenizer / "model" / "tokenizer").iterdir():
        shutil.copy(file, folder / file.name)


def load_model(folder: Path) -> CLIPModel:
    config = CLIPConfig.from_pretrained(folder)
    model = CLIPModel(config).float().eval()
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight.float() for name, weight in weights.items() if not name.endswith("position_ids")}
    model.load_state_dict(weights, strict=True)
    return model


def processor(config: dict | None, side: int) -> CLIPImageProcessorPil:
    default = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    known = {key: value for key, value in (config or {}).items() if not key.endswith("_type")}
    return CLIPImageProcessorPil(**(default | known))


def unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.norm(dim=-1, keepdim=True)


@torch.inference_mode()
def record(folder: Path, out: Path, variants: dict) -> None:
    model = load_model(folder)
    side = model.config.vision_config.image_size
    file = folder / "preprocessor_config.json"
    own = json.loads(file.read_text()) if file.exists() else None
    pictures = images()
    tensors = {f"image.{i}": torch.from_numpy(picture) for i, picture in enumerate(pictures)}
    names = list(tensors)
    as_pil = [Image.fromarray(picture) for picture in pictures]

    def pixels(config: dict | None) -> torch.Tensor:
        return processor(config, side)(as_pil, return_tensors="pt")["pixel_values"]

    cases = []
    for name, config in ({"own": own} | variants).items():
        key = f"pixel_values.{name}"
        tensors[key] = pixels(config)
        # The bound is far below one level of 255, so that the resized bytes are equal.
        case = {"kind": "clip_pixel_values", "name": f"pixel_values_{name}", "images": names}
        case |= {"pixel_values": key, "tolerance": 1e-6}
        if name != "own":
            case["preprocessor_config"] = config
        cases.append(case)

    image_features = unit(model.get_image_features(pixel_values=tensors["pixel_values.own"]).pooler_output)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    text_features = unit(model.get_text_features(input_ids=ids).pooler_output)
    logits = model(input_ids=ids, pixel_values=tensors["pixel_values.own"]).logits_per_image
    tensors |= {"image_features": image_features, "input_ids": ids}
    tensors |= {"text_features": text_features, "logits_per_image": logits}
    cases += [
        {"kind": "clip_image_features", "name": "image_features", "images": names, "image_features": "image_features", "tolerance": 1e-5},
        {"kind": "clip_text_features", "name": "text_features", "texts": TEXTS, "input_ids": "input_ids", "text_features": "text_features", "tolerance": 1e-5},
        {"kind": "clip_logits", "name": "logits", "images": names, "texts": TEXTS, "logits_per_image": "logits_per_image", "tolerance": 1e-5},
    ]  # fmt: skip

    out.mkdir(parents=True, exist_ok=True)
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "pillow": Image.__version__}
    json.dump({"flavour": "clip", "made_with": made_with, "cases": cases}, (out / "cases.json").open("w"), indent=1)
    (out / "cases.safetensors.gz").write_bytes(gzip.compress(save({name: tensor.contiguous() for name, tensor in tensors.items()}), mtime=0))


def random_models() -> None:
    openai, openclip = HERE / "clip_openai", HERE / "clip_openclip"
    for folder in (openai, openclip):
        shutil.rmtree(folder, ignore_errors=True)
    vocab = {name: len(json.loads((HERE / name / "model/tokenizer/vocab.json").read_text())) for name in ("sd1", "sd2")}
    small = {"architectures": ["CLIPModel"], "model_type": "clip", "logit_scale_init_value": 2.6592}
    make_model(
        openai / "model",
        small | {
            "projection_dim": 24,
            "text_config": {
                "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "hidden_act": "quick_gelu", "hidden_size": 40,
                "intermediate_size": 160, "max_position_embeddings": 77, "num_attention_heads": 5,
                "num_hidden_layers": 2, "vocab_size": vocab["sd1"],
            },
            "vision_config": {
                "hidden_act": "quick_gelu", "hidden_size": 48, "image_size": 32, "intermediate_size": 192,
                "num_attention_heads": 4, "num_hidden_layers": 2, "patch_size": 8,
            },
        },
        "sd1",
        {
            "crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD, "resample": 3,
            "size": 32,
        },
        torch.float16,
    )  # fmt: skip
    end = json.loads((HERE / "sd2/model/tokenizer/vocab.json").read_text())["<|endoftext|>"]
    make_model(
        openclip / "model",
        small | {
            "projection_dim": 20,
            "text_config": {
                "eos_token_id": end, "pad_token_id": 0, "hidden_act": "gelu", "hidden_size": 36,
                "intermediate_size": 100, "max_position_embeddings": 77, "num_attention_heads": 3,
                "num_hidden_layers": 3, "vocab_size": vocab["sd2"],
            },
            "vision_config": {
                "hidden_act": "gelu", "hidden_size": 44, "image_size": 31, "intermediate_size": 130,
                "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 7, "layer_norm_eps": 1e-6,
            },
        },
        "sd2",
        {
            "crop_size": {"height": 31, "width": 31}, "do_center_crop": True, "do_convert_rgb": True,
            "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN,
            "image_processor_type": "CLIPImageProcessor", "image_std": STD, "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 31},
        },
        torch.float32,
    )  # fmt: skip
    record(openai / "model", openai, {})
    record(openclip / "model", openclip, PREPROCESSORS)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        record(Path(sys.argv[1]), Path(sys.argv[2]), {})
    else:
        random_models()
