"""Teaches a concept from a folder of photos and draws it, with the client that openapi-python-client makes."""

import os
import sys
import time
from io import BytesIO
from pathlib import Path

from vstar_client import AuthenticatedClient
from vstar_client.api.concepts import create_concept, upload_images
from vstar_client.api.deltas import get_delta_content
from vstar_client.api.images import get_image_content
from vstar_client.api.samples import get_sample, start_sample
from vstar_client.api.trainings import get_training, start_training
from vstar_client.models import CreateConcept, StartSample, StartTraining, UploadForm
from vstar_client.types import File

ENDED = ("succeeded", "failed", "canceled")


def finished(job, get, client):
    """Looks at a job until it has ended."""
    while job.status not in ENDED:
        time.sleep(0.2)
        job = get.sync(job.id, client=client)
    assert job.status == "succeeded", job
    return job


def main(folder):
    url = os.environ.get("VSTAR_URL", "http://127.0.0.1:8080")
    # Where the service asks for no keys, any text will do.
    client = AuthenticatedClient(base_url=url, token=os.environ.get("VSTAR_KEY", "none"), timeout=60)

    # A concept and its photos.
    new = CreateConcept(handle="rex", modifier_token="<rex>", class_noun="dog")
    concept = create_concept.sync(client=client, body=new)
    print(f"concept {concept.handle}")
    photos = sorted(Path(folder).iterdir())[:4]
    files = [File(BytesIO(photo.read_bytes()), photo.name, "image/jpeg") for photo in photos]
    upload = upload_images.sync("rex", client=client, body=UploadForm(files=files))
    print(f"{upload.accepted} photos")
    assert upload.accepted == 4, upload

    # A training is a job: start it, then look until it has ended.
    new = StartTraining.from_dict({"concepts": ["rex"], "recipe": {"max_train_steps": 4}, "seed": 1})
    training = finished(start_training.sync(client=client, body=new), get_training, client)
    print(f"training {training.status}")

    # README's minimal body. The answer may wait for the image.
    new = StartSample(prompt="photo of a <rex> dog on the beach", seed=7)
    sample = start_sample.sync(client=client, body=new, prefer="wait=20")
    sample = finished(sample, get_sample, client)
    print(f"sample {sample.status}")

    # The image and the delta, as files.
    png = get_image_content.sync(sample.images[0].id, client=client).payload.read()
    delta = get_delta_content.sync(training.delta, client=client).payload.read()
    header = int.from_bytes(delta[:8], "little")
    assert png[1:4] == b"PNG" and header < len(delta)
    print(f"a PNG, and a delta with a header of {header} bytes")

    # A problem has a type, too.
    problem = start_sample.sync(client=client, body=StartSample(prompt="photo of a dog", n=99))
    assert problem.code == "out_of_range", problem
    print(f"n = 99: {problem.code}")


main(*sys.argv[1:])
