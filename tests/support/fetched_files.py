"""Files of a model as a store has them, and fetches of them with short pauses."""

from __future__ import annotations

import random
from pathlib import Path

from support.weight_stores import Bucket

from services.weights.fetch import Options, fetch
from services.weights.folder import Complete, Folder
from services.weights.manifest import Manifest
from services.weights.source import Source
from services.weights.transfer import Retry

FAST = Retry(tries=4, first_s=0.01, longest_s=0.02)
LARGE, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
UNREAD = ("pytorch_model.bin", "original/consolidated.safetensors", ".gitattributes")


def content(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


def model_files() -> dict[str, bytes]:
    """What a repository may have; nothing reads the files in UNREAD."""
    return {
        "config.json": b'{"model_type": "longcat_flash"}',
        "tokenizer.json": content(50_000, 1),
        "additional_chat_templates/tools.jinja": b"{{ messages }}",
        LARGE: content(1_500_000, 2),
        SMALL: content(700_001, 3),
        **dict.fromkeys(UNREAD, b"of something else"),
    }


def wanted(files: dict[str, bytes], *, weights: bool = True) -> dict[str, bytes]:
    """What of the files a model's readers read."""
    return {n: c for n, c in files.items() if n not in UNREAD and (weights or not n.endswith(".safetensors"))}


def fetched(
    source: Source,
    path: Path,
    *,
    weights: bool = True,
    manifest: Manifest | None = None,
    unverified: bool = False,
    verify: bool = False,
) -> Complete:
    options = Options(weights=weights, manifest=manifest, unverified=unverified, verify=verify, retry=FAST)
    return fetch(source, Folder(path), options)


def read(path: Path) -> dict[str, bytes]:
    """What lies in a folder besides its own notes."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and not one.relative_to(path).parts[0].startswith(".")
    }


def bucket_environment(server: Bucket) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
