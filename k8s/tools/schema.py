"""Generates k8s/values.schema.json from k8s/values.yaml: sections without unknown keys, types from the defaults,
descriptions from the comments, and the constraints of constraints.py.
"""

import json

from k8s.tools.constraints import CONSTRAINTS, UNREAD
from k8s.tools.values import ROLES, Entry, Tree, read_entries


def _plain(default: object) -> Tree:
    """Returns the type of a default. Raises ValueError for an integer, whose bounds constraints.py must give."""
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, float):
        return {"type": "number", "exclusiveMinimum": 0}
    if isinstance(default, str):
        return {"type": "string"}
    if isinstance(default, list | dict):
        return {"type": "array" if isinstance(default, list) else "object"}
    raise ValueError(f"the default {default!r} has no bounds in constraints.py")


def _restates_pod(entry: Entry, names: set[str]) -> bool:
    return entry.path[0] in ROLES and len(entry.path) > 1 and ".".join(("pod", *entry.path[1:])) in names


def _property(entry: Entry) -> Tree:
    if entry.name in CONSTRAINTS:
        made = dict(CONSTRAINTS[entry.name])
    elif entry.section:
        made = {"type": "object", "properties": {}, "additionalProperties": False}
    else:
        made = _plain(entry.default)
    return made | ({"description": entry.prose} if entry.prose and "$ref" not in made else {})


def _required(section: Tree) -> Tree:
    """Requires every key that may not be null: Helm drops one that is, and templates would fail without it."""
    properties = section["properties"]
    assert isinstance(properties, dict)
    inner = {key: _required(value) for key, value in properties.items() if value.get("properties")}
    needed = [key for key, value in properties.items() if "null" not in value.get("type", ())]
    return {"required": needed, **({"properties": inner} if inner else {})}


def build() -> Tree:
    """Returns the schema of the whole file. Roles have every key of `pod` that they read by reference."""
    entries = read_entries()
    names = {entry.name for entry in entries}
    root: Tree = {"properties": {}}
    for entry in entries:
        parent = root
        for key in entry.path[:-1]:
            properties = parent.get("properties")
            parent = properties.get(key, {}) if isinstance(properties, dict) else {}
        properties = parent.get("properties")
        # An open map (a security context, resources) has no known properties; a role's override has those of `pod`.
        if isinstance(properties, dict) and not _restates_pod(entry, names):
            properties[entry.path[-1]] = _property(entry)
    top_level = root["properties"]
    assert isinstance(top_level, dict)
    # Separate from the properties: roles refer to those of `pod` and `image`, but need not give all of them.
    required = _required(root)
    for role in ROLES:
        top_level[role]["properties"] |= {
            key: {"$ref": f"#/properties/pod/properties/{key}"}
            for key in top_level["pod"]["properties"]
            if key not in UNREAD.get(role, ())
        }
    # Helm adds `global` when the chart is a subchart.
    top_level["global"] = {"type": "object", "description": "Set by a parent chart; not used."}
    head: Tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the Caracal chart"}
    return head | {"type": "object", "additionalProperties": False, "properties": top_level, "allOf": [required]}


def render() -> str:
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
