"""What the verbs wrote for programs in the tests of the process, against the schemas in docs/."""

import json
import re
import unittest

import jsonschema
import referencing

import support

SCHEMAS = {it.name: json.loads(it.read_text()) for it in (support.ROOT / "docs" / "schemas").iterdir()}
# What tests/process/kept.rs keeps, one document a line.
KEPT = support.ROOT / "target" / "tmp" / "json"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# Definitions that are part of a larger object.
PARTS = {"envelope", "about", "came", "job"}


def documents():
    built = support.BINARY.stat().st_mtime
    # What another build wrote says nothing of this one.
    files = [it for it in KEPT.iterdir() if it.stat().st_mtime >= built]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def closed(schema):
    """The schema with every object closed: what it does not name is a fault."""
    if isinstance(schema, list):
        return [closed(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: value if key == "allOf" else closed(value) for key, value in schema.items()}
    if "$defs" in schema:
        result["$defs"] = {key: value if key in PARTS else closed(value) for key, value in schema["$defs"].items()}
    if isinstance(schema.get("properties"), dict) and "required" in schema:
        result.pop("additionalProperties", None)
        result["unevaluatedProperties"] = False
    elif schema.get("$ref", "").endswith("/job"):
        result["unevaluatedProperties"] = False
    return result


def objects(value, path=""):
    """Every object in a document, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from objects(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner, f"{path}[]")


class Json(unittest.TestCase):
    def validator(self, schemas, name):
        resources = [(key, referencing.jsonschema.DRAFT202012.create_resource(it)) for key, it in schemas.items()]
        registry = referencing.Registry().with_resources(resources)
        return jsonschema.Draft202012Validator(schemas[name], registry=registry)

    def test_every_document_is_what_its_schema_says_and_has_nothing_that_it_does_not_name(self):
        for schema in SCHEMAS.values():
            jsonschema.Draft202012Validator.check_schema(schema)
        strict = {name: closed(schema) for name, schema in SCHEMAS.items()}
        seen = set()
        for document in documents():
            name = f"{document['kind']}.json"
            for schemas in (SCHEMAS, strict):
                faults = list(self.validator(schemas, name).iter_errors(document))
                self.assertEqual([f"{it.json_path}: {it.message}" for it in faults], [], document)
            about = document.get("items") or [document]
            seen |= {(document["kind"], it.get("outcome", document.get("code"))) for it in about}
        expected = {
            "check": {"valid", "invalid"},
            "plan": {"cleaned", "already_clean", "refused", "ran"},
            "clean": {"cleaned", "already_clean", "superseded", "refused", "interrupted", "busy"},
            "history": {"cleaned", "observed", "working", "refused"},
            "job": {"cleaned", "refused"},
            "dead_letters": {"dead_lettered", "redriven"},
            "orphans": {"orphan", "kept", "gone"},
            "doctor": {"ok", "warning", "failure"},
            "health": {"healthy", "unhealthy"},
            "notice": {"cleaned"},
            "rehearsal": {"cleaned", "superseded", "refused", "retracted"},
            "error": {"usage", "bad_configuration", "unknown_target", "ledger_missing", "access_denied"},
        }
        self.assertEqual({f"{kind}.json" for kind in expected} | {"common.json"}, set(SCHEMAS))
        for kind, outcomes in expected.items():
            self.assertLessEqual({(kind, outcome) for outcome in outcomes}, seen)

    def test_one_name_is_one_thing_in_every_document(self):
        types = {}
        for document in documents():
            for path, it in objects(document):
                # The keys there are the configuration's, or stand for them.
                if path.startswith((".config", ".sources", ".aws", ".targets[]")):
                    continue
                for key, value in it.items():
                    self.assertNotRegex(key, "(_seconds|_s|_at_ms)$" if document["kind"] != "notice" else "_at_ms$")
                    if value is None:
                        continue
                    types.setdefault(key, set()).add(type(value).__name__)
                    if key == "at" or key.endswith("_at"):
                        self.assertRegex(value, TIME, f"{path}.{key}")
                    if key.endswith("_ms"):
                        self.assertIsInstance(value, int, f"{path}.{key}")
                # What came to something says why, and in words or not.
                if "outcome" in it and document["kind"] != "notice":
                    self.assertLessEqual({"reason", "detail"}, set(it), path)
                if "pipeline" in it and document["kind"] != "notice":
                    about = {"pipeline_arn", "target", "stage", "action", "execution_id", "outcome"}
                    self.assertLessEqual(about, set(it), path)
        self.assertEqual({key: found for key, found in types.items() if len(found) > 1}, {})


if __name__ == "__main__":
    unittest.main()
