"""Fills an empty server with one of everything: concepts with photos, deltas, images, sets, and jobs of each kind.

Writes the ids by kind of object into a JSON file, for hooks.py.
"""

import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import requests

URL = os.environ["VSTAR_URL"]
SHORT = {"max_train_steps": 3}


def call(method, path, **arguments):
    response = requests.request(method, URL + path, timeout=60, **arguments)
    if response.status_code >= 400:
        sys.exit(f"{method} {path}: {response.status_code} {response.text}")
    return response.json()


def finished(job):
    while job["status"] not in ("succeeded", "failed", "canceled"):
        time.sleep(0.1)
        job = call("GET", job["urls"]["self"])
    if job["status"] != "succeeded":
        sys.exit(f"{job['urls']['self']}: {job['error']}")
    return job


def job(path, **body):
    return finished(call("POST", path, json=body))


def concept(handle, folder, noun):
    made = call("POST", "/v1/concepts", json={"handle": handle, "modifier_token": f"<{handle}>", "class_noun": noun})
    files = [("files", (file.name, file.read_bytes(), "image/jpeg")) for file in sorted(folder.iterdir())[:5]]
    call("POST", f"/v1/concepts/{handle}/images", files=files)
    return made


def archive(folder):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for photo in sorted(folder.iterdir())[:4]:
            file.writestr(photo.name, photo.read_bytes())
            file.writestr(photo.with_suffix(".txt").name, f"photo of a dog, {photo.stem}")
    return packed.getvalue()


def main(photos, ids):
    photos = Path(photos)
    made = [concept("rex", photos / "dog", "dog"), concept("tom", photos / "cat", "cat")]
    trainings = [job("/v1/trainings", concepts=[name], recipe=SHORT, seed=1) for name in ("rex", "tom")]
    deltas = [training["delta"] for training in trainings]
    merges = [job("/v1/merges", concepts=[{"concept": "rex"}, {"concept": "tom"}])]
    deltas.append(merges[0]["delta"])
    compressions = [job(f"/v1/deltas/{deltas[0]}/compress", rank=4)]
    prompts = ["photo of a <rex> dog", "photo of a <tom> cat and a dog"]
    samples = [job("/v1/samples", prompt=prompt, seed=7, num_inference_steps=2) for prompt in prompts]
    image = photos / "dog" / sorted(os.listdir(photos / "dog"))[0]
    call("POST", "/v1/images", files={"file": ("start.jpg", image.read_bytes(), "image/jpeg")})
    call("POST", "/v1/image-sets", files={"file": ("dogs.zip", archive(photos / "dog"), "application/zip")})
    subjects = [{"name": "whole", "concepts": [{"concept": "rex"}]},
                {"name": "half", "concepts": [{"concept": "rex", "strength": 0.5}]}]
    evaluation = job("/v1/evaluations", subjects=subjects, prompts=["photo of a <rex> dog"], images_per_prompt=2,
                     num_inference_steps=2)
    first, second = ({"evaluation": evaluation["id"], "subject": name} for name in ("whole", "half"))
    study = call("POST", "/v1/preference-studies", json={"first": first, "second": second, "pairs": 2})

    # What may be deleted: nothing depends on it.
    expendable = {"ConceptId": [], "ImageSetId": [], "ImageId": []}
    for number in range(30):
        spare = {"handle": f"spare{number}", "modifier_token": f"<spare{number}>", "class_noun": "dog"}
        expendable["ConceptId"].append(call("POST", "/v1/concepts", json=spare)["id"])
    start = {"file": ("start.jpg", image.read_bytes(), "image/jpeg")}
    for _ in range(5):
        expendable["ImageId"].append(call("POST", "/v1/images", files=start)["id"])
        other = {"file": ("cats.zip", archive(photos / "cat"), "application/zip")}
        expendable["ImageSetId"].append(call("POST", "/v1/image-sets", files=other)["id"])

    listed = lambda path: [item["id"] for item in call("GET", path)["data"]]
    Path(ids).write_text(json.dumps({
        "expendable": expendable,
        "handles": ["rex", "tom"] + [one["id"] for one in made],
        "prompts": prompts,
        "tokens": [link.rsplit("/", 1)[-1] for link in study["links"]],
        "ConceptId": [one["id"] for one in made],
        "TrainingId": [one["id"] for one in trainings],
        "DeltaId": deltas,
        "MergeId": [one["id"] for one in merges],
        "CompressionId": [one["id"] for one in compressions],
        "SampleId": [one["id"] for one in samples],
        "ImageId": [image["id"] for sample in samples for image in sample["images"]]
        + listed("/v1/concepts/rex/images"),
        "ImageSetId": listed("/v1/image-sets"),
        "EvaluationId": [evaluation["id"]],
        "StudyId": [study["id"]],
    }, indent=1))


main(*sys.argv[1:])
