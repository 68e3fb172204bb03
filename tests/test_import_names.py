"""`kernels/` and `proto/` are folders, never packages: their names belong to other distributions."""

import importlib.util
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["kernels", "proto"])
def test_import_name_is_left_to_its_owner(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None or spec.origin is None or REPO not in Path(spec.origin).parents


def test_no_package_files_where_they_would_shadow() -> None:
    assert not (REPO / "kernels" / "__init__.py").exists()
    assert not (REPO / "proto" / "__init__.py").exists()
    assert not list((REPO / "tests").rglob("__init__.py")), "tests/kernels-like packages shadow others' names"
