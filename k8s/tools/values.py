"""Reads k8s/values.yaml: every key with its default and the comment above it."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parent.parent
ROLES = ("router", "attention", "expert", "redis")

Tree = dict[str, object]

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):(?P<rest>.*)$")


@dataclass(frozen=True)
class Entry:
    """One key: `path` from the root, `prose` without comment signs; `section` is true when it has keys of its own."""

    path: tuple[str, ...]
    prose: str
    default: object
    section: bool

    @property
    def name(self) -> str:
        return ".".join(self.path)


def defaults() -> Tree:
    tree = yaml.safe_load((CHART / "values.yaml").read_text())
    assert isinstance(tree, dict)
    return tree


def default_image() -> str:
    """Returns the image of the default values, as repository:tag."""
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return f"{look_up(defaults(), ('image', 'repository'))}:{about['appVersion']}"


def look_up(tree: object, path: tuple[str, ...]) -> object:
    for key in path:
        assert isinstance(tree, dict), path
        tree = tree[key]
    return tree


def read_entries() -> list[Entry]:
    """Returns all keys in the order of the file. A flow-style map or list is one entry; its content is not checked."""
    tree = defaults()
    found: list[tuple[tuple[str, ...], str]] = []
    stack: list[str] = []
    prose: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.strip().startswith("#"):
            prose.append(line.strip().removeprefix("#").strip())
            continue
        match = _KEY.match(line)
        if match:
            stack = [*stack[: len(match["indent"]) // 2], match["key"]]
            found.append((tuple(stack), " ".join(prose)))
        prose = []
    parents = {path[:-1] for path, _ in found}
    return [Entry(path, text, look_up(tree, path), path in parents) for path, text in found]
