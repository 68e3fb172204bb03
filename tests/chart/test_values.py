"""values.yaml is the manual and values.schema.json its closed form."""

from typing import Any

from k8s.tools import __main__ as tools
from k8s.tools.constraints import REFINED
from k8s.tools.schema import build
from k8s.tools.values import ROLES, Entry, read_entries

OVERRIDES = {"limits", "requests"}


def _restates(entry: Entry, names: set[str]) -> bool:
    return entry.path[0] in ROLES and ".".join(("pod", *entry.path[1:])) in names


def test_every_value_has_prose() -> None:
    entries = read_entries()
    names = {entry.name for entry in entries}
    silent = [entry.name for entry in entries if not entry.prose and not _restates(entry, names)]
    assert [name for name in silent if name.rpartition(".")[2] not in OVERRIDES] == []


def test_refinements_name_values_that_exist() -> None:
    assert REFINED.keys() <= {entry.name for entry in read_entries()}


def test_schema_is_closed_wherever_keys_are_ours() -> None:
    def closed(schema: Any, path: str) -> None:
        if schema.get("properties"):
            assert schema["additionalProperties"] is False, path
            for key, inner in schema["properties"].items():
                closed(inner, f"{path}.{key}")

    closed(build(), "values")


def test_every_integer_has_bounds() -> None:
    """Helm wraps what is too large for its kind, and a StatefulSet of billions takes the control plane down."""

    def integers(schema: Any, path: str) -> list[tuple[str, Any]]:
        found = [(path, schema)] if isinstance(schema, dict) and schema.get("type") == "integer" else []
        inner = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
        return [*found, *(one for key, value in inner for one in integers(value, f"{path}.{key}"))]

    all_of_them = integers(build(), "")
    assert len(all_of_them) > 40
    assert [path for path, schema in all_of_them if not {"minimum", "maximum"} <= schema.keys()] == []


def test_schema_knows_every_key() -> None:
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


def test_what_needs_no_helm_is_up_to_date() -> None:
    made = tools.made_here()
    assert {path.name for path in made} >= {"values.schema.json", "README.md", "requests.json"}
    assert tools.differences(made) == []
