"""What can be said of a model's folder before a process is started: that it is one, and of the right kind."""

from __future__ import annotations

import re
from pathlib import Path

from services.checkpoint.config import ModelConfig
from services.checkpoint.config_file import read_config
from services.checkpoint.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
OTHER_WEIGHTS = ("*.bin", "*.gguf", "*.pt", "*.pth", "*.msgpack", "*.h5")
OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model", "spiece.model")


class WrongModel(ValueError):
    """The folder cannot be served. The message is one line, without the folder's name."""


def check_model(path: Path) -> ModelConfig:
    """Returns the model's sizes. Raises WrongModel with what to do about it, as far as that is known.

    What is in the files of weights is left to the workers.
    """
    _check_folder(path)
    config = path / "config.json"
    if not config.exists():
        below = sorted(one.parent.name for one in path.glob("*/config.json"))
        raise WrongModel("it has no config.json" + (f"; a folder in it has: {below[0]}" if below else ""))
    try:
        found = read_config(config)[0]
    except CheckpointError as error:
        raise WrongModel(str(error)) from None
    if not any(path.glob("*.safetensors")):
        others = [one.name for pattern in OTHER_WEIGHTS for one in sorted(path.glob(pattern))]
        lies = f"; {others[0]} is of another format, which is not read" if others else ""
        raise WrongModel(f"it has no *.safetensors: its weights are missing{lies}")
    if not (path / "tokenizer.json").exists():
        others = [name for name in OTHER_TOKENIZERS if (path / name).exists()]
        how = "copy the published model's"
        if others:
            how = f"{others[0]} is not read; save it anew with transformers' AutoTokenizer, or {how}"
        raise WrongModel(f"it has no tokenizer.json: {how}")
    return found


def _check_folder(path: Path) -> None:
    if path.is_dir():
        return
    if path.is_file():
        raise WrongModel("a file: give the folder that has config.json, tokenizer.json and *.safetensors")
    name = str(path)
    if re.match(r"\w+:/", name):
        raise WrongModel("a URL: models are read from disk and never downloaded")
    raise WrongModel(f"not a directory{download_hint(path) or ' (a model is read from disk, never downloaded)'}")


def download_hint(path: Path) -> str:
    """How to get a model whose name on Hugging Face this seems to be; else empty."""
    name = str(path)
    if not HUB_ID.fullmatch(name) or path.parent.exists():
        return ""
    return (
        ". If it is a model's name on Hugging Face: models are not downloaded; get it with "
        f"`hf download {name} --local-dir {path.name}` and give the directory {path.name}"
    )
