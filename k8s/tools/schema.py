"""Writes k8s/values.schema.json from k8s/values.yaml: closed sections, types from the defaults, prose as descriptions,
and what refined.py adds. `python -m k8s.tools` writes it.
"""

import json

from k8s.tools.constraints import REFINED
from k8s.tools.values import ROLES, Entry, Tree, read_entries


def _plain(default: object) -> Tree:
    """The type of a default. Raises ValueError for an integer: its bounds must be given in refined.py."""
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, float):
        return {"type": "number", "exclusiveMinimum": 0}
    if isinstance(default, str):
        return {"type": "string"}
    if isinstance(default, list | dict):
        return {"type": "array" if isinstance(default, list) else "object"}
    raise ValueError(f"{default!r} is a default without bounds")


def _restates_pod(entry: Entry, names: set[str]) -> bool:
    return entry.path[0] in ROLES and len(entry.path) > 1 and ".".join(("pod", *entry.path[1:])) in names


def _property(entry: Entry) -> Tree:
    if entry.name in REFINED:
        made = dict(REFINED[entry.name])
    elif entry.section:
        made = {"type": "object", "properties": {}, "additionalProperties": False}
    else:
        made = _plain(entry.default)
    return made | ({"description": entry.prose} if entry.prose and "$ref" not in made else {})


def _whole(section: Tree) -> Tree:
    """Asks for every key, which are all there unless one is given as null: Helm drops those and templates would not."""
    properties = section["properties"]
    assert isinstance(properties, dict)
    inner = {key: _whole(value) for key, value in properties.items() if value.get("properties")}
    return {"required": list(properties), **({"properties": inner} if inner else {})}


def build() -> Tree:
    """The schema of the whole file. Roles take every key of `pod` by reference."""
    entries = read_entries()
    names = {entry.name for entry in entries}
    root: Tree = {"properties": {}}
    for entry in entries:
        holder = root
        for key in entry.path[:-1]:
            properties = holder.get("properties")
            holder = properties.get(key, {}) if isinstance(properties, dict) else {}
        properties = holder.get("properties")
        # A free map (a security context, resources) has no properties of ours; a role's override has pod's.
        if isinstance(properties, dict) and not _restates_pod(entry, names):
            properties[entry.path[-1]] = _property(entry)
    tops = root["properties"]
    assert isinstance(tops, dict)
    # Apart from the properties, because roles refer to those of `pod` and `image` and give some of them only.
    whole = _whole(root)
    for role in ROLES:
        tops[role]["properties"] |= {
            key: {"$ref": f"#/properties/pod/properties/{key}"} for key in tops["pod"]["properties"]
        }
    # Helm adds `global` when the chart is a subchart.
    tops["global"] = {"type": "object", "description": "Given by a parent chart; not read."}
    head: Tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the Caracal chart"}
    return head | {"type": "object", "additionalProperties": False, "properties": tops, "allOf": [whole]}


def render() -> str:
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
