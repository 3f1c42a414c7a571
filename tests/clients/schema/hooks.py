"""Gives Schemathesis what the server has, and checks what its own checks let through.

Positive examples get ids, handles and prompts of what seed.py has made, or they would find nothing. Jobs become short. Only the
examples that are to be refused stay as they are.
"""

import io
import json
import os
import random
import re
import zipfile
from pathlib import Path

import requests
import schemathesis
from hypothesis import strategies

HAS = json.loads(Path(os.environ["VSTAR_IDS"]).read_text())
URL = os.environ["VSTAR_URL"]
KEYED = requests.Session()
KEYED.headers["authorization"] = f"Bearer {os.environ.get('VSTAR_KEY', 'none')}"
SCHEMAS = "#/components/schemas/"
CHOICE = random.Random(int(os.environ.get("SCHEMA_SEED", "1")))

# Texts that name something, whatever their schema is.
NAMED = {"concept": "handles", "concepts": "handles", "token": "tokens", "set": "ImageSetId", "prompt": "prompts", "model": "models"}
# Bounds of numbers that make jobs long.
SHORT = {"max_train_steps": 3, "num_inference_steps": 3, "n": 2, "images_per_prompt": 1, "class_batch_size": 1,
         "instance_batch_size": 2, "wait": 1, "enlarge": 1, "start_within_seconds": 60, "finish_within_seconds": 60}
# What may be deleted: each of them once. The rest stays, so that the other operations find something.
EXPENDABLE = HAS["expendable"]


def positive(case, place):
    """Whether a part of a request is one that the description allows."""
    component = case.meta and next((part for key, part in case.meta.components.items() if key.value == place), None)
    return component is not None and component.mode.value == "positive"


def is_to_be_accepted(case):
    """Whether all of a request is what the description allows."""
    return case.meta is not None and case.meta.generation.mode.value == "positive"


def one_of(name):
    return CHOICE.choice(HAS[name])


def target(schema):
    return schema.get("$ref", "").removeprefix(SCHEMAS) if isinstance(schema, dict) else ""


def filled(value, schema, name, components):
    """The value, with what there is in place of made-up names."""
    wanted = target(schema)
    if wanted in HAS:
        return one_of(wanted)
    schema = components.get(wanted, schema) or {}
    if isinstance(value, dict):
        fields = dict(schema.get("properties", {}))
        for one in schema.get("oneOf", []):
            fields |= components.get(target(one), one).get("properties", {})
        return {key: filled(field, fields.get(key, {}), key, components) for key, field in value.items()}
    if isinstance(value, list):
        return [filled(item, schema.get("items", {}), name, components) for item in value]
    for one in schema.get("oneOf", []):
        if target(one) in HAS and value is not None:
            return one_of(target(one))
    if name == "external_id" and value is not None:
        return f"order {CHOICE.random()}"
    if isinstance(value, str) and NAMED.get(name) in HAS and "enum" not in schema:
        return one_of(NAMED[name])
    if name in SHORT and isinstance(value, (int, float)) and value > SHORT[name]:
        return SHORT[name]
    return value


def side(subject):
    return {"evaluation": one_of("EvaluationId"), "subject": subject}


# Bodies that cannot be right by chance: fields that belong together, or that exclude each other. By operation: what is left out,
# and what is set.
TOGETHER = {
    "POST /v1/samples": ("from_manifest noise_strength concepts merge composition width height", {"prompt": "a <rex> dog"}),
    "POST /v1/trainings": ("class_images start_from regularization", {"concepts": ["rex"], "recipe": {"max_train_steps": 2}}),
    "POST /v1/merges": ("captions constraint_weight protect", {"concepts": [{"concept": "rex"}, {"concept": "tom"}]}),
    "POST /v1/merges/check": ("captions constraint_weight protect", {"concepts": [{"concept": "rex"}, {"concept": "tom"}]}),
    "POST /v1/evaluations": ("width height concepts held_out prompt_set", {
        "subjects": [{"name": "one", "concepts": [{"concept": "rex"}]}], "prompts": ["photo of a {}"]}),
    "POST /v1/preference-studies": ("", {"first": side("whole"), "second": side("half")}),
    "POST /v1/deltas/{delta_id}/compress": ("energy", {"rank": 2}),
    "POST /v1/client-tokens": ("job origin", {"concept": "rex"}),
    "POST /v1/uploads": ("concept caption", {"content_type": "image/png"}),
    "POST /v1/image-sets/{set}/retrieve": ("", {"prompt": "photo of a dog"}),
    "POST /v1/webhook-endpoints": ("secret", {}),
    "POST /openai/v1/images/generations": ("noise_strength size stream partial_images background output_format quality "
                                           "complexity style moderation input_fidelity", {"prompt": "a <rex> dog"}),
}
PHOTO = (Path(__file__).parents[3] / "demo/concepts/dog/1.jpg").read_bytes()
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as packed:
    packed.writestr("a.jpg", PHOTO)
    packed.writestr("a.txt", "photo of a dog")
# Files of forms: some that will do, and some that will not.
schemathesis.openapi.format("binary", strategies.sampled_from([PHOTO, PHOTO, ARCHIVE.getvalue(), b"", b"GIF89a", PHOTO[:999]]))


def sensible(operation, body):
    """The body with what belongs together, most of the time."""
    if CHOICE.random() < 0.25:
        return body
    without, fixed = TOGETHER.get(operation, ("", {}))
    return {name: field for name, field in body.items() if name not in without.split()} | fixed


def place(case, name, wanted):
    """An id for a parameter of the path."""
    path = case.operation.path
    if path.startswith("/uploads/"):
        return one_of("uploads")
    if path.startswith("/v1/concepts/{concept}/images/"):
        if name == "concept":
            return "rex"
        if case.operation.label == "DELETE /v1/concepts/{concept}/images/{image_id}" and EXPENDABLE["photos"]:
            return EXPENDABLE["photos"].pop()
        return one_of("ImageId" if case.method == "DELETE" else "photos")
    if case.method == "DELETE":
        # Each of them once, then one that is gone.
        spare = EXPENDABLE.get("ConceptId" if wanted == "handles" else wanted, [])
        return spare.pop() if spare else re.sub(r"\w{4}$", "0000", one_of(wanted))
    if case.method == "PATCH" and wanted == "handles":
        return CHOICE.choice(EXPENDABLE["ConceptId"] or HAS["ConceptId"])
    return one_of(wanted)


@schemathesis.hook
def before_call(context, case, **kwargs):
    components = case.operation.schema.raw_schema["components"]["schemas"]
    in_chain = case.meta is not None and case.meta.phase.name.value == "stateful"
    if case.path_parameters and positive(case, "path"):
        described = {one["name"]: one for one in case.operation.definition.raw.get("parameters", []) if "in" in one}
        for name in list(case.path_parameters):
            wanted = target(described.get(name, {}).get("schema", {})) or NAMED.get(name)
            if name == "index":
                case.path_parameters[name] = CHOICE.randrange(4)
            if wanted not in HAS:
                continue
            if case.method in ("DELETE", "PATCH") or not in_chain:
                case.path_parameters[name] = place(case, name, wanted)
        if case.operation.path.endswith("/previews/{index}"):
            case.path_parameters = running_sample()
    if not is_to_be_accepted(case):
        return
    headers = {name.lower() for name in case.headers or {}}
    if "idempotency-key" in headers and CHOICE.random() < 0.9:
        case.headers["idempotency-key"] = f"key {CHOICE.random()}"
    if "if-match" in headers and (not case.headers["if-match"] or CHOICE.random() < 0.7):
        case.headers["if-match"] = "*"
    if case.query and positive(case, "query") and CHOICE.random() < 0.8:
        case.query.pop("after", None)
        case.query.pop("before", None)
    if case.operation.label == "PUT /uploads/{token}":
        case.body = PHOTO
    if case.operation.label == "POST /votes/{token}":
        case.body = f"pair={CHOICE.randrange(3)}&text=left&image=right"
    media = next(iter(case.operation.definition.raw.get("requestBody", {}).get("content", {"": {}}).items()))
    if isinstance(case.body, dict) and media[0] == "application/json":
        if "webhook" in case.operation.path and "url" in case.body:
            case.body["url"] = "http://127.0.0.1:9/"
        case.body = sensible(case.operation.label, filled(case.body, media[1]["schema"], "", components))
        # Most jobs are not run: one worker would be behind by thousands.
        fields = components.get(target(media[1]["schema"]), {}).get("properties", {})
        if "dry_run" in fields and CHOICE.random() < 0.7:
            case.body["dry_run"] = True


RUNNING = {}


def running_sample():
    """A sample that has a preview now: its paths lead nowhere once it has ended."""
    url = RUNNING.get("url")
    job = KEYED.get(URL + url, timeout=30).json() if url else {"status": "none"}
    if job["status"] not in ("queued", "running"):
        body = {"prompt": "photo of a dog", "num_inference_steps": 400, "preview_every": 5}
        job = KEYED.post(f"{URL}/v1/samples", json=body, timeout=30).json()
        RUNNING.update(url=job["urls"]["self"], id=job["id"])
        for _ in range(50):
            job = KEYED.get(f"{URL}{RUNNING['url']}?wait=1", timeout=30).json()
            if job.get("progress") and job["progress"].get("previews"):
                break
    return {"sample_id": RUNNING["id"], "index": 0}


def problem_of(response):
    kind = response.headers.get("content-type", [""])[0]
    return response.json() if "problem+json" in kind else None


@schemathesis.check
def refused_for_a_reason_that_the_description_does_not_give(ctx, response, case):
    """What the description allows is never refused as malformed, and no field is unknown."""
    mode = case.meta and case.meta.generation.mode.value
    problem = problem_of(response)
    if mode == "positive" and problem and response.status_code in (400, 415, 422):
        codes = {error["code"] for error in problem["errors"]} | {problem["code"]}
        wrong = codes & {"malformed_body", "unsupported_media_type", "unknown_field"}
        assert not wrong, f"the description allows this request: {problem['detail']}"


@schemathesis.check
def every_problem_is_one_that_the_operation_lists(ctx, response, case):
    """The code of a problem is among the `x-codes` of its status, and so are those of its fields."""
    problem = problem_of(response)
    described = case.operation.definition.raw["responses"].get(str(response.status_code))
    if problem is None or described is None or problem["code"] == "method_not_allowed":
        return
    if "$ref" in described:
        name = described["$ref"].rsplit("/", 1)[-1]
        described = case.operation.schema.raw_schema["components"]["responses"][name]
    codes = {problem["code"]} | {error["code"] for error in problem["errors"]}
    assert codes <= set(described["x-codes"]), f"{codes - set(described['x-codes'])} are not listed"


@schemathesis.check
def no_answer_speaks_of_rust(ctx, response, case):
    """Details are for people who have never seen the source."""
    problem = problem_of(response)
    if problem:
        found = re.search(r"\b(usize|[ui](8|16|32|64)|f(32|64)|struct|newtype|unit variant|Some\(|Err\()\b", problem["detail"])
        assert not found, problem["detail"]


# Forms: their values are texts and files, so what is wrong as JSON, such as a number for a text, may be right as a form.
FORMS = {"/v1/concepts/{concept}/images", "/v1/image-sets", "/v1/images", "/openai/v1/images/edits"}


@schemathesis.check
def a_form_that_is_wrong_as_a_form_is_refused(ctx, response, case):
    """What `negative_data_rejection` finds out for other bodies: no unknown field and no missing one is accepted, and no wrong query."""
    if case.operation.path not in FORMS or case.method != "POST" or is_to_be_accepted(case) or response.status_code >= 400:
        return
    assert not case.meta or positive(case, "query") or not case.query, f"a wrong query was accepted: {case.query}"
    if not isinstance(case.body, dict):
        return
    content = case.operation.definition.raw["requestBody"]["content"]["multipart/form-data"]
    components = case.operation.schema.raw_schema["components"]["schemas"]
    schema = components.get(target(content["schema"]), content["schema"])
    # Null and empty lists are sent as no field at all.
    sent = {name for name, value in case.body.items() if value is not None and value != []}
    unknown, missing = sent - set(schema["properties"]), set(schema.get("required", [])) - sent
    assert not unknown and not missing, f"accepted with {unknown or 'no unknown fields'} and without {missing or 'none'}"
