"""What the running code does not have: unpickling, evaluation, routes that nobody asked for, code of checkpoints."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from support.gateway_assets import write_assets
from support.gateway_harness import MODEL, Harness

from services.router.requests.assets import ModelAssets

REPO = Path(__file__).resolve().parents[2]
RUNTIME = ("services", "kernels", "proto")
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
EVALUATING = {"eval", "exec", "compile", "__import__"}


def parsed() -> Iterator[tuple[str, ast.AST]]:
    for folder in RUNTIME:
        for path in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                yield f"{path.relative_to(REPO)}:{getattr(node, 'lineno', 0)}", node


def test_b32_nothing_is_unpickled_and_nothing_evaluated() -> None:
    """The ShadowMQ family: CVE-2024-50050, CVE-2025-30165, CVE-2025-47277 and others."""
    found = []
    for place, node in parsed():
        if isinstance(node, ast.Import):
            found += [f"{place}: {name.name}" for name in node.names if name.name.split(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            found.append(f"{place}: {node.module}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATING:
            found.append(f"{place}: {node.func.id}()")
        elif isinstance(node, ast.Attribute) and node.attr in ("recv_pyobj", "send_pyobj", "broadcast_object_list"):
            found.append(f"{place}: {node.attr}")
        elif isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
            found.append(f"{place}: torch.load")
    assert not found


@pytest.mark.processes
def test_b37_there_are_no_other_routes(tmp_path: Path) -> None:
    """CVE-2023-48022 and CVE-2023-43654: interfaces that run jobs or load code."""
    with Harness(write_assets(tmp_path / "model")) as router:
        paths = httpx2.get(router.url + "/openapi.json").json()["paths"]
        wanted = {"/health", "/ready", "/ping", "/version", "/load", "/cluster", "/metrics", "/tokenize", "/detokenize"}
        assert {path for path in paths if not path.startswith("/v1/")} == wanted
        for path in (
            "/invocations",
            "/pause",
            "/update_weights",
            "/v1/files",
            "/collective_rpc",
            "/debug",
            "/shutdown",
        ):
            assert httpx2.post(router.url + path, json={"model": MODEL}).status_code == 404, path


@pytest.mark.processes
def test_b38_code_beside_a_model_is_never_run(tmp_path: Path) -> None:
    """CVE-2025-66448, CVE-2026-22807, CVE-2026-27893."""
    folder, marker = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(REPO / "models" / "caracal-tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("modeling_longcat", "configuration_longcat", "tokenization_longcat", "sitecustomize", "__init__"):
        (folder / f"{name}.py").write_text(code)
    config["auto_map"] = {
        "AutoConfig": "configuration_longcat.Config",
        "AutoModelForCausalLM": "modeling_longcat.Model",
    }
    (folder / "config.json").write_text(json.dumps(config))
    ModelAssets.load(folder, MODEL)
    program = "import sys; from pathlib import Path; from services.checkpoint.reader import Checkpoint;"
    program += " Checkpoint.open(Path(sys.argv[1]))"
    paths = ":".join(str(REPO / part) for part in (".", "kernels", "proto"))
    subprocess.run(
        [sys.executable, "-P", "-c", program, str(folder)], check=True, cwd=folder, env={"PYTHONPATH": paths}
    )
    assert not marker.exists()
