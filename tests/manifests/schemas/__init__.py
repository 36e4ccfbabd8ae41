"""What an object must look like: unknown fields fail, whoever brought its kind.

Kubernetes' own kinds are kubernetes-validate's. Gateway API's and Envoy Gateway's are held to the
definitions that `make tools` brings, Linkerd's to schemas of our own beside this file.

Not judged here, since it needs an API server: `x-kubernetes-validations` (expressions in CEL), that
the entries of a list with keys differ, and what admission webhooks say. `against_cluster` asks one.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from jsonschema.exceptions import best_match

from tests.manifests.build import Object
from tests.support.skips import require_crds

# The folder in .tools/crds that holds a group's definitions.
GROUPS = {
    "gateway.networking.k8s.io": "gateway-api",
    "gateway.envoyproxy.io": "envoy-gateway",
}
OWN = {path.stem: yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("*.yaml")}
# Of `metadata`, which a definition leaves open, what a manifest may hold.
METADATA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        # `yes` or `1` without quotes is refused by the API server, and not by Kustomize.
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


class SchemaError(Exception):
    """An object does not fit its schema, or there is none."""


def check(item: Object, kubernetes: str) -> None:
    """Hold one object to its schema in a version of Kubernetes such as 1.35.

    Raises SchemaError; skips the test where `make tools` brought no definitions.
    """
    group = item["apiVersion"].rpartition("/")[0]
    custom = group in GROUPS or group in OWN
    # What is built in many combinations is judged once, and other kinds' in no version.
    problem = _problem(json.dumps(item, sort_keys=True), None if custom else kubernetes)
    if problem is not None:
        raise SchemaError(f"{item['kind']} {item['metadata'].get('name', '')}: {problem}")


@cache
def _problem(text: str, kubernetes: str | None) -> str | None:
    item = json.loads(text)
    group, _, version = item["apiVersion"].rpartition("/")
    if kubernetes is None:
        error = best_match(_validator(group, version, item["kind"]).iter_errors(item))
        return f"{error.json_path}: {error.message}" if error else None
    try:
        kubernetes_validate.validate(item, kubernetes, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as wrong:
        return str(wrong.message)
    return None


@cache
def _validator(group: str, version: str, kind: str) -> jsonschema.Draft4Validator:
    if group in OWN:
        known = OWN[group].get(kind)
        if known is None or known["version"] != version:
            raise SchemaError(f"no schema of {group}/{version} {kind}: {Path(__file__).parent}")
        schema: dict[str, Any] = {
            "type": "object",
            "required": ["spec"],
            "properties": {"spec": known["spec"]},
        }
    else:
        schema = definition(group, version, kind)
    properties = {**schema["properties"], "metadata": METADATA}
    properties |= {
        "apiVersion": {"enum": [f"{group}/{version}"]},
        "kind": {"enum": [kind]},
    }
    whole = closed({**schema, "properties": properties})
    # OpenAPI 3.0, which definitions are written in, is draft 4 with words of its own.
    return jsonschema.Draft4Validator(whole)


def definition(group: str, version: str, kind: str) -> dict[str, Any]:
    """The schema in a custom resource definition; raises SchemaError if that is not served."""
    for path in sorted(require_crds(GROUPS[group]).glob("*.yaml")):
        text = path.read_text()
        # Loading all of them takes seconds.
        if f"\n    kind: {kind}\n" not in text:
            continue
        for crd in yaml.load_all(text, yaml.CSafeLoader):
            if crd["spec"].get("names", {}).get("kind") != kind:
                continue
            for served in crd["spec"]["versions"]:
                if served["name"] == version and served["served"]:
                    return served["schema"]["openAPIV3Schema"]
    raise SchemaError(f"{group} serves no {version} {kind}")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema in which a field that it does not name is an error.

    The API server drops such a field, and with --validate=strict refuses it. `anyOf` and its like
    stay as they are: they name a few fields each, and judge no others.
    """
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
    for nested in ("items", "additionalProperties"):
        if isinstance(schema.get(nested), dict):
            result[nested] = closed(schema[nested])
    is_open = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & schema.keys()
    if schema.get("type") == "object" and not is_open:
        result["additionalProperties"] = False
    return result
