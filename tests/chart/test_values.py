"""Every value in values.yaml is documented, and values.schema.json allows no other key."""

from typing import Any

from k8s.tools import __main__ as tools
from k8s.tools.constraints import CONSTRAINTS
from k8s.tools.schema import build
from k8s.tools.values import ROLES, Entry, read_entries

OVERRIDES = {"limits", "requests"}


def _restates(entry: Entry, names: set[str]) -> bool:
    return entry.path[0] in ROLES and ".".join(("pod", *entry.path[1:])) in names


def test_every_value_has_prose() -> None:
    entries = read_entries()
    names = {entry.name for entry in entries}
    undocumented = [entry.name for entry in entries if not entry.prose and not _restates(entry, names)]
    assert [name for name in undocumented if name.rpartition(".")[2] not in OVERRIDES] == []


def test_constraints_name_values_that_exist() -> None:
    assert CONSTRAINTS.keys() <= {entry.name for entry in read_entries()}


def test_schema_allows_no_unknown_keys() -> None:
    def closed(schema: Any, path: str) -> None:
        if schema.get("properties"):
            assert schema["additionalProperties"] is False, path
            for key, inner in schema["properties"].items():
                closed(inner, f"{path}.{key}")

    closed(build(), "values")


def test_every_integer_has_bounds() -> None:
    """Helm overflows on large integers, and a StatefulSet of billions of pods exhausts the control plane."""

    def integers(schema: Any, path: str) -> list[tuple[str, Any]]:
        found = [(path, schema)] if isinstance(schema, dict) and schema.get("type") == "integer" else []
        inner = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
        return [*found, *(one for key, value in inner for one in integers(value, f"{path}.{key}"))]

    all_of_them = integers(build(), "")
    assert len(all_of_them) > 40
    assert [path for path, schema in all_of_them if not {"minimum", "maximum"} <= schema.keys()] == []


def test_schema_has_every_key() -> None:
    schema: Any = build()
    for entry in read_entries():
        known = schema
        for key in entry.path:
            known = known["properties"].get(key) if "properties" in known else known
            assert known is not None, entry.name
            while "$ref" in known:
                target = schema
                for part in known["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                known = target


def test_files_generated_without_helm_are_up_to_date() -> None:
    generated = tools.generated()
    assert {path.name for path in generated} >= {"values.schema.json", "README.md", "requests.json"}
    assert tools.differences(generated) == []
