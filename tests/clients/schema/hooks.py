"""Gives Schemathesis the ids of what the server has, and checks what its own checks let through.

The ids come from seed.py. In paths and bodies the description then allows these alone, so that positive examples find something.
"""

import json
import os
import re
from pathlib import Path

import schemathesis

IDS = json.loads(Path(os.environ["VSTAR_IDS"]).read_text())
SCHEMAS = "#/components/schemas/"
COPY = "Sent"

# Texts that name something. By operation, since a name may mean several things.
NAMED = {"concept": "handles", "concepts": "handles", "token": "tokens", "set": "ImageSetId", "prompt": "prompts"}


def known(name):
    """The schema of an id, or of another name of something, that allows what the server has."""
    return {"type": "string", "enum": IDS[name]}


def sent(schema, name, components):
    """A copy of a schema as clients send it: in it, ids are ids of what there is."""
    if isinstance(schema, list):
        return [sent(item, name, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema and schema["$ref"].startswith(SCHEMAS):
        target = schema["$ref"].removeprefix(SCHEMAS)
        if target in IDS:
            return known(target)
        if components[target].get("type") == "string":
            return schema
        copy = COPY + target
        if copy not in components:
            components[copy] = {}  # for schemas that contain themselves
            components[copy] = sent(components[target], name, components)
        return {**schema, "$ref": SCHEMAS + copy}
    is_text = schema.get("type") in ("string", ["string", "null"]) and "enum" not in schema
    if is_text and NAMED.get(name) in IDS and "maxLength" not in schema:
        return known(NAMED[name])
    copy = {}
    for key, value in schema.items():
        if key == "properties":
            copy[key] = {field: sent(value[field], field, components) for field in value}
        else:
            copy[key] = sent(value, name, components)
    return copy


@schemathesis.hook
def before_load_schema(context, schema):
    components = schema["components"]["schemas"]
    for methods in schema["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    target = parameter["schema"].get("$ref", "").removeprefix(SCHEMAS)
                    if target in IDS:
                        parameter["schema"] = known(target)
                    elif NAMED.get(parameter["name"]) in IDS:
                        parameter["schema"] = known(NAMED[parameter["name"]])
            for media in operation.get("requestBody", {}).get("content", {}).values():
                media["schema"] = sent(media["schema"], "", components)


@schemathesis.check
def refused_for_a_reason_that_the_description_does_not_give(ctx, response, case):
    """What the description allows is never refused as malformed, and no field is missing or unknown."""
    mode = case.meta and case.meta.generation.mode.value
    if mode == "positive" and response.status_code in (400, 415, 422):
        problem = response.json()
        codes = {error["code"] for error in problem.get("errors", [])} | {problem["code"]}
        wrong = codes & {"malformed_body", "unsupported_media_type", "unknown_field"}
        assert not wrong, f"the description allows this request: {problem['detail']}"


@schemathesis.check
def every_problem_is_one_that_the_operation_lists(ctx, response, case):
    """The code of a problem is among the `x-codes` of its status."""
    if response.status_code < 400 or "problem+json" not in response.headers.get("content-type", [""])[0]:
        return
    code = response.json()["code"]
    described = case.operation.definition.raw["responses"].get(str(response.status_code))
    if described is None or code == "method_not_allowed":
        return
    if "$ref" in described:
        described = case.operation.schema.raw_schema["components"]["responses"][described["$ref"].rsplit("/", 1)[-1]]
    assert code in described["x-codes"], f"{code} is not among {described['x-codes']}"


@schemathesis.check
def no_answer_speaks_of_rust(ctx, response, case):
    """Details are for people who have never seen the source."""
    if response.status_code >= 400 and "problem+json" in response.headers.get("content-type", [""])[0]:
        detail = response.json()["detail"]
        found = re.search(r"\b(usize|u64|i64|f64|struct|newtype|unit variant|Some\(|None\b|Err\()", detail)
        assert not found, detail
