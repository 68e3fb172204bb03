"""Models, devices and ranks that cannot be served: said at once, with the option's name and what to do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.tiny_checkpoint import make_checkpoint
from support.user_commands import command, new_user, one_line

from services.local.model_folder import WrongModel, check_model, download_hint

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000}
QWEN = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
LONGCAT_IMAGE = {"architectures": ["LongcatImagePipeline"], "model_type": "longcat_image"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def why_not(path: Path) -> str:
    with pytest.raises(WrongModel) as caught:
        check_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_of_this_family_is_taken(model: Path) -> None:
    assert check_model(model).num_attention_heads == 4


@pytest.mark.parametrize("config", [LLAMA, QWEN, LONGCAT_IMAGE], ids=lambda config: str(config["model_type"]))
def test_another_model_is_named_and_those_that_are_served(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = why_not(tmp_path)
    assert f"{config['architectures'][0]!r} (model_type {config['model_type']!r}) is another model" in found  # type: ignore[index]
    assert "Caracal serves LongcatFlashForCausalLM" in found


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([], "it has no tokenizer.json: copy the published model's"),
        (["tokenizer.model"], "tokenizer.model is not read; save it anew with transformers' AutoTokenizer"),
        (["vocab.json", "merges.txt"], "vocab.json is not read"),
    ],
)
def test_a_folder_without_tokenizer(model: Path, files: list[str], why: str) -> None:
    (model / "tokenizer.json").unlink()
    for name in files:
        (model / name).touch()
    assert why in why_not(model)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("", "its weights are missing"),
        ("pytorch_model.bin", "pytorch_model.bin is of another format"),
        ("m.gguf", "m.gguf"),
    ],
)
def test_a_folder_without_weights(model: Path, file: str, why: str) -> None:
    for path in model.glob("*.safetensors"):
        path.unlink()
    if file:
        (model / file).touch()
    assert why in why_not(model)


def test_places_that_are_no_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert why_not(Path("config.json")) == "not a directory (a model is read from disk, never downloaded)"
    assert why_not(model / "config.json").startswith("a file: give the folder")
    assert why_not(model.parent) == "it has no config.json; a folder in it has: model"
    hub = why_not(Path("meituan-longcat/LongCat-Flash-Chat"))
    assert "models are not downloaded" in hub
    assert "`hf download meituan-longcat/LongCat-Flash-Chat --local-dir LongCat-Flash-Chat`" in hub
    assert why_not(Path("https://huggingface.co/a/b")).startswith("a URL: models are read from disk")
    assert not download_hint(Path("model/none")), "a folder that is there is no name of a hub"
    assert not download_hint(Path("/a/b"))
    assert not download_hint(Path("a/b/c"))


@pytest.mark.processes
@pytest.mark.parametrize("name", ["up", "serve"])
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--device", "gpu"], "--device is 'gpu': must be cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "--device is 'cuda:99': this machine has"),
        (["--tp", "3"], "--tp is 3: must divide the model's 4 attention heads"),
        (["--tensor-parallel-size", "65"], "--tp is 65: must be at most 64"),
        (["--expert", "0"], "--expert is 0: must be at least 1"),
        (["--model", "a/b"], "hf download a/b"),
    ],
)
def test_commands_say_it_at_once(tmp_path: Path, model: Path, name: str, words: list[str], why: str) -> None:
    given = [] if "--model" in words else ["--model", str(model)]
    started = time.monotonic()
    done = command(new_user(tmp_path), name, *given, *words)
    assert why in one_line(done)
    assert done.returncode == 2
    assert not list((tmp_path / "tmp").iterdir()), "nothing was started"
    assert time.monotonic() - started < 30


@pytest.mark.processes
def test_two_models_are_one_too_many(tmp_path: Path, model: Path) -> None:
    other = make_checkpoint(tmp_path / "other")
    done = command(new_user(tmp_path), "serve", str(model), "--model", str(other))
    assert f"two models are given, {model} and --model {other}" in one_line(done)
    assert done.returncode == 2


@pytest.mark.processes
def test_plan_of_a_hub_id(tmp_path: Path) -> None:
    done = command(new_user(tmp_path), "plan", "meituan-longcat/LongCat-Flash-Chat")
    assert (done.returncode, "hf download meituan-longcat" in one_line(done)) == (2, True)
