"""`kernels/` and `proto/` are folders, never packages: their names belong to other distributions."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["kernels", "proto"])
def test_import_name_is_left_to_its_owner(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None or spec.origin is None or REPO not in Path(spec.origin).parents


def test_no_package_files_where_they_would_shadow() -> None:
    assert not (REPO / "kernels" / "__init__.py").exists()
    assert not (REPO / "proto" / "__init__.py").exists()
    assert not list((REPO / "tests").rglob("__init__.py")), (
        "a package like tests/kernels shadows other distributions' names"
    )


@pytest.mark.parametrize("role", ["router", "attention_worker", "expert_worker"])
def test_no_role_imports_the_client_of_kubernetes(role: str) -> None:
    """Only `--context` imports it, and the leader's event thread when it has an event to send."""
    check = f"import sys, services.cli.app, services.{role}.__main__; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
