"""Model directories that were made to harm: a router refuses them in one line that names the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.router.requests.errors import InvalidRequest
from services.router.requests.template import ChatTemplate

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
MODEL = REPO / "models" / "caracal-tiny"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def write(name: str, data: bytes, folder: Path) -> None:
    (folder / name).write_bytes(data)


def fields(name: str, values: dict[str, Any], folder: Path) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pipe(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def device(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")


HARM: dict[str, tuple[str, Callable[[Path], None]]] = {
    "pipe for config": ("config.json", partial(pipe, "config.json")),
    "pipe for tokenizer": ("tokenizer.json", partial(pipe, "tokenizer.json")),
    "pipe for template": ("chat_template.jinja", partial(pipe, "chat_template.jinja")),
    "device for config": ("config.json", partial(device, "config.json")),
    "device for tokenizer": ("tokenizer.json", partial(device, "tokenizer.json")),
    "device for generation": ("generation_config.json", partial(device, "generation_config.json")),
    "deep config": ("config.json", partial(write, "config.json", DEEP)),
    "deep tokenizer": ("tokenizer.json", partial(write, "tokenizer.json", DEEP)),
    "deep tokenizer config": ("tokenizer_config.json", partial(write, "tokenizer_config.json", DEEP)),
    "deep template": (
        "chat_template.jinja",
        partial(write, "chat_template.jinja", b"{{" + b"(" * 50_000 + b"1" + b")" * 50_000 + b"}}"),
    ),
    "very many layers": ("num_layers", partial(fields, "config.json", {"num_layers": 10**9})),
    "very many zero experts": ("zero_expert_num", partial(fields, "config.json", {"zero_expert_num": 10**9})),
    "very long context": (
        "max_position_embeddings",
        partial(fields, "config.json", {"max_position_embeddings": 2**31 - 1}),
    ),
    "very large vocabulary": ("vocab_size", partial(fields, "config.json", {"vocab_size": 10**9})),
    "number of many digits": ("config.json", partial(write, "config.json", b'{"a": %s}' % (b"9" * 5000))),
    "panic of the tokenizer": (
        "tokenizer.json",
        partial(fields, "tokenizer.json", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}),
    ),
    "endless expression": (
        "tokenizer.json",
        partial(
            fields,
            "tokenizer.json",
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}},
        ),
    ),
}


# Forks for each folder, because a router's imports take a second.
EACH = """
import os, resource, signal, sys
import services.router.__main__ as router

for folder in sys.argv[1:]:
    if (child := os.fork()) == 0:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        os.environ["CARACAL_MODEL"] = folder + "/model"
        os.dup2(os.open(folder + "/stderr", os.O_WRONLY | os.O_CREAT), 2)
        router.main()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit status and standard error of a router for each harmful directory."""
    folders = {harm: tmp_path_factory.mktemp("harm") for harm in HARM}
    for harm, folder in folders.items():
        shutil.copytree(MODEL, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
        HARM[harm][1](folder / "model")
    env = {**os.environ, "PYTHONPATH": PATHS, "CARACAL_PORT": "0", "CARACAL_GRPC_PORT": "0", "CARACAL_ADMIN_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", EACH, *map(str, folders.values())],
        env=env | {"CARACAL_REDIS_URL": "redis://127.0.0.1:1/0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    texts = [(folder / "stderr").read_text() for folder in folders.values()]
    return dict(zip(HARM, zip(map(int, done.stdout.split()), texts, strict=True), strict=True))


@pytest.mark.parametrize("harm", HARM)
def test_a_router_refuses_in_one_line(outcomes: dict[str, tuple[int, str]], harm: str) -> None:
    status, text = outcomes[harm]
    assert status == 2
    assert len(text.splitlines()) == 1
    assert text.startswith("caracal: ")
    assert HARM[harm][0] in text
    assert len(text) < 500


@pytest.mark.parametrize(
    "source",
    [
        "{{ 9 ** 99999999 }}",
        "{% set x = 9999999 %}{{ x ** x }}",
        "{{ 'a' * 9999999999 }}",
        "{{ 9999999999 * [1] }}",
        "{% set x = 'ab' * 1000 %}{{ x * 100000 }}",
    ],
)
def test_templates_make_nothing_large_by_a_product(source: str) -> None:
    with pytest.raises(InvalidRequest, match="is too large"):
        ChatTemplate(source, {}).render([{"role": "user", "content": "hi"}])


def test_products_of_usual_size_are_computed() -> None:
    text = ChatTemplate("{{ '=' * 20 }}{{ 3 * 4 }}{{ 2 ** 10 }}{{ 1.5 * 2 }}{{ 2 ** -1 }}", {}).render([])
    assert text == "=" * 20 + "12" + "1024" + "3.0" + "0.5"
