"""Checks every example in the description against the schema that it stands in."""

import json
import sys

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


def examples(value, path=""):
    """Yields (path, schema, example) for each example of a schema."""
    if isinstance(value, dict):
        if isinstance(value.get("examples"), list):
            for example in value["examples"]:
                yield path, value, example
        if "example" in value and "schema" in value:
            yield path, value["schema"], value["example"]
        for name, field in value.items():
            yield from examples(field, f"{path}/{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from examples(item, f"{path}/{index}")


def main(file):
    with open(file, encoding="utf-8") as text:
        document = json.load(text)
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry = Registry().with_resource("urn:vstar", resource)
    checked = wrong = 0
    for path, schema, example in examples(document):
        schema = json.loads(json.dumps(schema).replace('"#/components', '"urn:vstar#/components'))
        for error in Draft202012Validator(schema, registry=registry).iter_errors(example):
            wrong += 1
            print(f"{path}: {example!r}: {error.message}", file=sys.stderr)
        checked += 1
    print(f"{checked} examples, {wrong} wrong")
    sys.exit(1 if wrong or not checked else 0)


main(*sys.argv[1:])
