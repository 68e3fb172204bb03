"""What a worker does not import before it serves: its start is mostly imports, and streams may wait for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

NEEDED_SOMETIMES = {
    *(
        "torch._dynamo",
        "torch._inductor",
        "torch._functorch.aot_autograd",
        "torch.utils.cpp_extension",
        "sympy",
        "triton",
    ),
    *("transformers", "safetensors", "huggingface_hub", "numpy.testing", "numpy.f2py", "cryptography.hazmat"),
    *("fastapi", "starlette", "uvicorn", "pydantic", "httpx", "requests", "aiohttp", "jinja2", "kubernetes", "boto3"),
    *("typer", "click", "opentelemetry.exporter", "opentelemetry.sdk.trace", "IPython", "matplotlib"),
    *("services.cli", "services.local", "services.simulator", "services.planner", "services.router.gateway"),
    *("services.attention_worker.tensor_parallel.rank_process", "services.process.otel"),
}
LOOK = """
import gc, importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps({"modules": list(sys.modules), "full_collections": gc.get_stats()[2]["collections"]}))
"""


@pytest.mark.parametrize("role", ["attention_worker", "expert_worker"])
def test_a_worker_starts_without_what_it_needs_only_sometimes(role: str) -> None:
    command = [sys.executable, "-c", LOOK, f"services.{role}.__main__"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    modules = set(found["modules"])
    assert f"services.{role}.worker" in modules
    assert modules & NEEDED_SOMETIMES == set()
    assert found["full_collections"] == 0, "every object that imports have made is looked at"
