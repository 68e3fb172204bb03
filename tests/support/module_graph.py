"""The repository's import graph, read as text: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
ROOTS = {"services": REPO, "bench": REPO, "training": REPO, "k8s": REPO, "caracal_kernels": REPO / "kernels"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by dotted name; packages by their own."""
    found: dict[str, Path] = {}
    for package, root in ROOTS.items():
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


def _statements(body: list[ast.stmt], *, top_only: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse], top_only=top_only)
        elif not top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.With):
            yield from _statements(node.body, top_only=top_only)


@cache
def imports(module: str, *, top_only: bool = False) -> frozenset[str]:
    """What a module imports: the project's modules by full name, others by their first part.

    With `top_only`, only what importing it imports; else also what its functions do.
    """
    tree = ast.parse(modules()[module].read_text())
    found: set[str] = set()
    for node in _statements(tree.body, top_only=top_only):
        if isinstance(node, ast.Import):
            found |= {_known(alias.name) for alias in node.names}
        elif node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules() else _known(node.module))
    return frozenset(found - {"__future__"})


def _known(name: str) -> str:
    return name if name in modules() else name.partition(".")[0]


@cache
def reached(module: str) -> frozenset[str]:
    """Everything that is imported when the module is, however far away; packages' own files included."""
    seen: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in modules():
            left += imports(name, top_only=True)
            if "." in name:
                left.append(name.rpartition(".")[0])
    return frozenset(seen - {module})


def below(*packages: str) -> list[str]:
    """The modules in these packages, and those of these names."""
    return [
        name for name in modules() if any(name == package or name.startswith(package + ".") for package in packages)
    ]


def circles() -> list[list[str]]:
    """Groups of modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in imports(name) & modules().keys():
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group: list[str] = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in modules():
        if name not in index:
            visit(name)
    return found
