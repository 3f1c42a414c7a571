"""Draws a concept with OpenAI's own Python package, as frontends do that were written for it."""

import base64
import os
import time
import urllib.request
from pathlib import Path

import openai
import httpx

URL = os.environ.get("VSTAR_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("VSTAR_KEY", "none")
HEADERS = {"Authorization": f"Bearer {KEY}"}
PNG = b"\x89PNG"


def teach(folder):
    """Teaches a concept, by the service's own API."""
    with httpx.Client(base_url=URL, headers=HEADERS, timeout=120) as api:
        words = {"handle": "rex", "modifier_token": "<rex>", "class_noun": "dog"}
        api.post("/v1/concepts", json=words).raise_for_status()
        photos = [("files", (photo.name, photo.read_bytes())) for photo in sorted(Path(folder).iterdir())[:4]]
        api.post("/v1/concepts/rex/images", files=photos).raise_for_status()
        body = {"concepts": ["rex"], "recipe": {"max_train_steps": 4}, "seed": 1}
        training = api.post("/v1/trainings", json=body).raise_for_status().json()
        while training["status"] in ("queued", "running"):
            time.sleep(0.2)
            training = api.get(training["urls"]["self"]).raise_for_status().json()
        assert training["status"] == "succeeded", training
        return training["delta"]


def refused(kind, call):
    """The error of a call that has to fail with this kind of exception."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind} was not raised")


def main(folder):
    delta = teach(folder)
    client = openai.OpenAI(base_url=f"{URL}/openai/v1", api_key=KEY)

    models = [model.id for model in client.models.list()]
    print("models", *models)
    assert models[1:] == ["rex", delta], models
    assert client.models.retrieve(delta).id == delta

    # Bytes: concepts are named by their tokens, and what only this service has goes through extra_body.
    prompt = "photo of a <rex> dog on the beach"
    extra = {"seed": 7, "num_inference_steps": 3}
    images = client.images.generate(prompt=prompt, n=2, size="64x64", quality="hd", style="vivid", user="me", extra_body=extra)
    pngs = [base64.b64decode(image.b64_json) for image in images.data]
    assert len(pngs) == 2 and all(png.startswith(PNG) for png in pngs)
    print("generated", images.size, [len(png) for png in pngs])

    # A URL of the same image, which needs no key. Asked again with the same key, nothing is drawn again.
    order = {"Idempotency-Key": "order 7"}
    first, again = (
        client.images.generate(prompt=prompt, response_format="url", size="64x64", extra_body=extra, extra_headers=order)
        for _ in range(2)
    )
    assert first.sample == again.sample, (first, again)
    for images in (first, again):
        with urllib.request.urlopen(images.data[0].url) as answer:
            assert answer.read() == pngs[0]
    print("fetched", first.data[0].url.replace(URL, "").split("?")[0])

    # A model other than the base model brings in its concepts by itself.
    by_model = client.images.generate(model=delta, prompt=prompt, size="64x64", extra_body=extra)
    assert base64.b64decode(by_model.data[0].b64_json) == pngs[0]

    # An edit starts from an image.
    edited = client.images.edit(image=("start.png", pngs[0]), prompt=prompt, extra_body={**extra, "noise_strength": 0.5})
    assert base64.b64decode(edited.data[0].b64_json).startswith(PNG)
    print("edited", edited.size)

    # Errors are this package's own.
    error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="a <nobody> dog"))
    assert (error.code, error.param, error.type) == ("unknown_concept", "prompt", "invalid_request_error"), error.body
    error = refused(openai.BadRequestError, lambda: client.images.generate(prompt="a dog", size="1x1"))
    assert error.param == "size", error.body
    error = refused(openai.NotFoundError, lambda: client.images.generate(prompt="a dog", model="dall-e-3"))
    assert error.code == "model_not_found", error.body
    error = refused(openai.BadRequestError, lambda: client.images.edit(image=b"no image", prompt="a dog"))
    assert (error.code, error.param) == ("image_unreadable", "image"), error.body
    refused(openai.NotFoundError, lambda: client.images.create_variation(image=pngs[0]))
    print("refused as the package expects")


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
