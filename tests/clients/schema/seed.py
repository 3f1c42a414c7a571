"""Fills an empty server with one of everything: concepts with photos, deltas, images, sets, and jobs of each kind.

Writes the ids by kind of object into a JSON file, for hooks.py.
"""

import hashlib
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
    key = {"authorization": f"Bearer {os.environ.get('VSTAR_KEY', 'none')}"}
    response = requests.request(method, URL + path, timeout=60, headers=key, **arguments)
    if response.status_code >= 400:
        sys.exit(f"{method} {path}: {response.status_code} {response.text}")
    return response.json() if response.content else None


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
    files = [("files", (file.name, file.read_bytes(), "image/jpeg")) for file in sorted(folder.iterdir())[:6]]
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

    start = image.read_bytes()
    announced = {"filename": "start.jpg", "content_type": "image/jpeg", "size_bytes": len(start),
                 "sha256": hashlib.sha256(start).hexdigest()}
    uploads = [call("POST", "/v1/uploads", json=announced) for _ in range(3)]
    hook = {"url": "http://127.0.0.1:9/"}
    endpoints = [call("POST", "/v1/webhook-endpoints", json=hook)["id"] for _ in range(2)]
    deliveries = [call("POST", f"/v1/webhook-endpoints/{endpoints[0]}/test")["id"]]
    keys = [call("POST", "/v1/api-keys", json={"name": "spare", "scopes": ["read"]})["id"] for _ in range(4)]
    projects = [call("POST", "/v1/projects", json={"name": "other"})["id"]]

    listed = lambda path: [item["id"] for item in call("GET", path)["data"]]

    # What may be deleted: nothing depends on it.
    spare = job("/v1/merges", concepts=[{"concept": "rex"}, {"concept": "tom"}])
    expendable = {
        "MergeId": [job("/v1/merges", concepts=[{"concept": "rex"}, {"concept": "tom"}])["id"]],
        "TrainingId": [call("POST", call("POST", "/v1/trainings", json={"concepts": ["rex"], "recipe": SHORT})
                            ["urls"]["cancel"])["id"]],
        "DeltaId": [spare["delta"]],
        "SampleId": [job("/v1/samples", prompt="a dog", num_inference_steps=1)["id"] for _ in range(3)],
        "CompressionId": [job(f"/v1/deltas/{deltas[1]}/compress", rank=2)["id"]],
        "EvaluationId": [job("/v1/evaluations", subjects=subjects[:1], prompts=["a {}"], images_per_prompt=1,
                             num_inference_steps=1)["id"]],
        "StudyId": [call("POST", "/v1/preference-studies", json={"first": first, "second": second})["id"]],
        "WebhookEndpointId": endpoints[1:], "ApiKeyId": keys[2:],
        "ConceptId": [], "ImageSetId": [],
        "ImageId": [], "photos": listed("/v1/concepts/rex/images")[:1],
    }
    for number in range(30):
        new = {"handle": f"spare{number}", "modifier_token": f"<spare{number}>", "class_noun": "dog"}
        expendable["ConceptId"].append(call("POST", "/v1/concepts", json=new)["id"])
    for _ in range(5):
        file = {"file": ("start.jpg", start, "image/jpeg")}
        expendable["ImageId"].append(call("POST", "/v1/images", files=file)["id"])
        file = {"file": ("cats.zip", archive(photos / "cat"), "application/zip")}
        expendable["ImageSetId"].append(call("POST", "/v1/image-sets", files=file)["id"])

    Path(ids).write_text(json.dumps({
        "expendable": expendable,
        "handles": ["rex", "tom"] + [one["id"] for one in made],
        "prompts": prompts,
        "models": ["tiny", "rex", deltas[0]],
        "tokens": [link.rsplit("/", 1)[-1] for link in study["links"]],
        "ConceptId": [one["id"] for one in made],
        "TrainingId": [one["id"] for one in trainings],
        "DeltaId": deltas,
        "MergeId": [one["id"] for one in merges],
        "CompressionId": [one["id"] for one in compressions],
        "SampleId": [one["id"] for one in samples],
        "ImageId": [image["id"] for sample in samples for image in sample["images"]]
        + listed("/v1/concepts/rex/images")[1:],
        "ImageSetId": [one for one in listed("/v1/image-sets") if one not in expendable["ImageSetId"]],
        "EvaluationId": [evaluation["id"]],
        "StudyId": [study["id"]],
        "UploadId": [upload["id"] for upload in uploads],
        "uploads": [upload["url"].rsplit("/", 1)[-1] for upload in uploads],
        "WebhookEndpointId": endpoints[:1],
        "WebhookDeliveryId": deliveries,
        "ApiKeyId": keys[:2],
        "ProjectId": projects,
        "photos": listed("/v1/concepts/rex/images")[1:],
    }, indent=1))


main(*sys.argv[1:])
