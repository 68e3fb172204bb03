"""The sizes that keep a file on one mental page: lines of files and functions, and that docstrings are sentences."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

from support.module_graph import REPO, modules

LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FILE = 350, 60, 100
FOLDERS = ("services", "kernels", "proto", "bench", "training", "k8s", "tests")


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in (REPO / folder).rglob("*.py")]
    found += [
        path for suffix in ("*.cpp", "*.h") for top in ("kernels", "services") for path in (REPO / top).rglob(suffix)
    ]
    return [path for path in found if not re.search(r"_pb2(_grpc)?\.py$", path.name)]


def test_files_are_short() -> None:
    lines = {str(path.relative_to(REPO)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}
    ours = [count for name, count in lines.items() if not name.startswith("tests/")]
    assert statistics.median(ours) < MEDIAN_FILE


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(REPO)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in sources()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: count for name, count in long.items() if count > LONGEST_FUNCTION}


def test_no_docstring_opens_as_half_a_sentence() -> None:
    wrong = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if re.match(r"Of\b", text):
                    wrong.append(f"{name}: {text.splitlines()[0]}")
    assert not wrong
