"""Which chat templates a checkpoint has, where they are found, and what is said when one is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.gateway_assets import write_assets

from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest
from services.router.requests.model_files import AssetError
from services.router.requests.template_files import read_special_tokens, read_templates

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "get"}}]
NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]


def write(folder: Path, config: dict[str, Any], **files: str) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        path = folder / ("chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def rendered(folder: Path) -> tuple[str, str]:
    """Returns the prompts of a chat without and with tools."""
    templates = read_templates(folder)
    assert templates is not None
    return (
        templates.choose(tools=False).render(HI),
        templates.choose(tools=True).render(HI, tools=TOOLS),
    )


@pytest.mark.parametrize(
    ("config", "files", "prompts"),
    [
        ({"chat_template": "one"}, {}, ("one", "one")),
        ({"chat_template": "one"}, {"default": "file"}, ("file", "file")),
        ({"chat_template": NAMED}, {}, ("plain", "tools")),
        ({"chat_template": NAMED}, {"tool_use": "file"}, ("plain", "file")),
        ({"chat_template": "one"}, {"tool_use": "file"}, ("one", "file")),
        ({}, {"default": "file", "tool_use": "more", "rag": "no"}, ("file", "more")),
    ],
    ids=range(6),
)
def test_the_template_for_tools_is_taken_when_there_are_tools(
    tmp_path: Path, config: dict[str, Any], files: dict[str, str], prompts: tuple[str, str]
) -> None:
    assert rendered(write(tmp_path, config, **files)) == prompts


def test_a_model_may_have_no_template_or_none_for_chats_without_tools(tmp_path: Path) -> None:
    assert read_templates(tmp_path) is None
    templates = read_templates(write(tmp_path, {"chat_template": NAMED[1:]}))
    assert templates is not None
    with pytest.raises(InvalidRequest, match="named default, only tool_use"):
        templates.choose(tools=False)


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        ({"chat_template": "{% if %}"}, {}, ("tokenizer_config.json", "'default', line 1")),
        ({}, {"default": "a\n{{ x | nofilter }}"}, ("chat_template.jinja", "line 2", "nofilter")),
        ({}, {"tool_use": "{% for %}"}, ("additional_chat_templates/tool_use.jinja", "'tool_use'")),
        ({"chat_template": 5}, {}, ("tokenizer_config.json", "chat_template must be a string or a list")),
        ({"chat_template": [{"name": "default"}]}, {}, ("tokenizer_config.json", "name and template")),
        ({"chat_template": ["x"]}, {}, ("tokenizer_config.json", "name and template")),
        ({}, {"default": "{{ messages | random }}"}, ("chat_template.jinja", "random")),
        ({}, {"default": "{{ lipsum() }}"}, ("chat_template.jinja", "random")),
    ],
    ids=range(8),
)
def test_a_wrong_template_is_named_by_file(
    tmp_path: Path, config: dict[str, Any], files: dict[str, str], words: tuple[str, ...]
) -> None:
    with pytest.raises(AssetError) as caught:
        read_templates(write(tmp_path, config, **files))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(AssetError, match=r"chat_template.jinja: not UTF-8"):
        read_templates(tmp_path)


def test_special_tokens_are_the_templates_variables_as_in_transformers(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<s>"},
        "unk_token": "<u>",
        "eos_token": None,
        "add_bos_token": False,
        "model_max_length": 5,
        "chat_template": "{{ bos_token }}{{ unk_token }}{{ eos_token is defined }}",
    }
    assert read_special_tokens(write(tmp_path, config)) == {"bos_token": "<s>", "unk_token": "<u>"}
    assert rendered(tmp_path)[0] == "<s><u>False"


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_assets(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    size = ModelAssets.load(folder, "m").vocabulary.size
    for vocab_size in (size, size - 1):
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size}))
        if vocab_size == size:
            assert ModelAssets.load(folder, "m").vocab_size == size
            continue
        with pytest.raises(AssetError) as caught:
            ModelAssets.load(folder, "m")
    assert str(caught.value) == (
        f"{folder}/tokenizer.json: it has token ids up to {size - 1}, but vocab_size in config.json is {size - 1}"
    )


def test_a_tokenizer_file_that_cuts_texts_cuts_no_prompt(tmp_path: Path) -> None:
    folder = write_assets(tmp_path / "model")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert len(ModelAssets.load(folder, "m").encode("a b c d e f")) > 2


def test_special_tokens_are_those_of_the_map_then_of_the_config(tmp_path: Path) -> None:
    write(tmp_path, {"bos_token": "<a>", "pad_token": "<p>", "extra_special_tokens": {"foo_token": "<f>"}})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<b>"}, "eos_token": "<e>"}))
    assert read_special_tokens(tmp_path) == {
        "bos_token": "<b>",
        "eos_token": "<e>",
        "pad_token": "<p>",
        "foo_token": "<f>",
    }


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"900": {"content": "<x>"}}}, "'<x>', which it lacks"),
        ("tokenizer_config.json", {"additional_special_tokens": ["<x>"]}, "'<x>', which it lacks"),
        ("special_tokens_map.json", {"additional_special_tokens": [{"content": "<x>"}]}, "'<x>', which it lacks"),
        ("added_tokens.json", {"<x>": 352}, "'<x>', which it lacks"),
        ("added_tokens.json", {"<longcat_s>": 7}, "'<longcat_s>', which has the id 1 in tokenizer.json"),
    ],
)  # fmt: skip
def test_a_token_that_only_a_side_file_adds_is_refused(
    tmp_path: Path, file: str, content: dict[str, Any], why: str
) -> None:
    path = write_assets(tmp_path)
    config = json.loads((path / "tokenizer_config.json").read_text()) if file == "tokenizer_config.json" else {}
    (path / file).write_text(json.dumps(config | content))
    with pytest.raises(AssetError) as caught:
        ModelAssets.load(path, "m")
    assert str(caught.value) == f"{path / file}: it adds {why.replace('it lacks', 'tokenizer.json lacks')}"


def test_tokens_that_tokenizer_json_has_may_be_named_again(tmp_path: Path) -> None:
    path = write_assets(tmp_path)
    (path / "added_tokens.json").write_text(json.dumps({"<longcat_s>": 1}))
    ModelAssets.load(path, "m")


@pytest.mark.parametrize("source", ["{% break %}", "{% continue %}"])
def test_a_template_that_python_cannot_compile_names_its_file(tmp_path: Path, source: str) -> None:
    with pytest.raises(AssetError, match=r"chat_template\.jinja: chat template 'default'"):
        read_templates(write(tmp_path, {}, default=source))


def test_a_template_that_raises_anything_rejects_the_messages(tmp_path: Path) -> None:
    templates = read_templates(write(tmp_path, {}, default="{{ cycler().next() }}"))
    assert templates is not None
    with pytest.raises(InvalidRequest, match="The chat template rejected the messages"):
        templates.choose(tools=False).render(HI)


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_json_that_is_nested_too_deep_names_its_file(tmp_path: Path, file: str) -> None:
    path = write_assets(tmp_path)
    (path / file).write_text('{"a": ' + "[" * 200_000)
    with pytest.raises(AssetError, match=f"{re.escape(file)}: not JSON"):
        ModelAssets.load(path, "m")
