"""Records how diffusers starts from an image: late in the schedule, from a clean sample with noise added.

    python tests/golden/record_late_starts.py > tests/golden/late_starts.json

Needs torch and diffusers. PNDM is left out: started late, diffusers' own counts its steps from the wrong one.
"""

import importlib
import json

import torch
from diffusers import (
    DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
    LCMScheduler, UniPCMultistepScheduler,
)  # fmt: skip

SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
SIZE = 6


def record(name: str, prediction_type: str, steps: int, strength: float) -> dict:
    kind, extra = SCHEDULERS[name]
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    config |= {"prediction_type": prediction_type, "clip_sample": False, "timestep_spacing": "leading"}
    scheduler = kind.from_config(config | extra)
    scheduler.set_timesteps(steps)

    # As in StableDiffusionImg2ImgPipeline.get_timesteps and prepare_latents.
    first = steps - min(int(steps * strength), steps)
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    clean, noise = torch.randn(1, SIZE), torch.randn(1, SIZE)
    sample = scheduler.add_noise(clean, noise, timesteps[:1])

    start, preds, noises, samples = sample, [], [], []
    for timestep in timesteps:
        preds.append(torch.randn(1, SIZE))
        noises.append(torch.randn(1, SIZE))
        module = importlib.import_module(kind.__module__)
        module.randn_tensor = lambda *_, **__: noises[-1]
        scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(preds[-1], timestep, sample).prev_sample
        samples.append(sample)
    numbers = lambda rows: [row.flatten().tolist() for row in rows]  # noqa: E731
    return {
        "scheduler": name, "scheduler_config": config, "num_inference_steps": steps, "noise_strength": strength,
        "timesteps": timesteps.tolist(), "clean": clean.flatten().tolist(), "noise": noise.flatten().tolist(),
        "start": start.flatten().tolist(), "model_preds": numbers(preds), "noises": numbers(noises),
        "samples": numbers(samples),
    }  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    print("[" + ",\n".join(
        json.dumps(record(name, prediction, steps, strength))
        for name in SCHEDULERS
        for prediction in ("epsilon", "v_prediction")
        for steps, strength in [(10, 0.65), (7, 0.15), (4, 1.0)]
    ) + "]")  # fmt: skip
