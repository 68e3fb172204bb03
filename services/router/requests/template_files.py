"""Finds a checkpoint's chat templates where transformers looks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from services.router.requests.model_files import AssetError, read_json_if_there, read_text
from services.router.requests.template import DEFAULT, ChatTemplate, ChatTemplates

CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"  # transformers takes it before tokenizer_config.json
FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"


def read_special_tokens(directory: Path) -> dict[str, str]:
    """Returns the special tokens that the tokenizer's files name: `bos_token` and so on. Raises AssetError.

    As transformers does: the map counts before the config, and `extra_special_tokens` has names of the model's own.
    """
    config, own = (read_json_if_there(directory / name) for name in (CONFIG, SPECIAL_TOKENS))
    extra = config.get("extra_special_tokens")
    tokens = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in (config | own).items()
        if name.endswith("_token") and not name.startswith(("add_", "use_"))
    }
    tokens |= extra if isinstance(extra, dict) else {}
    return {name: text for name, text in tokens.items() if isinstance(text, str)}


def read_templates(directory: Path) -> ChatTemplates | None:
    """Returns the model's chat templates, None when it has none. Raises AssetError naming the file.

    Files win over the templates of the same name in tokenizer_config.json.
    """
    tokens = read_special_tokens(directory)
    named: dict[str, ChatTemplate] = {}
    for name, source, path in _sources(directory):
        try:
            named[name] = ChatTemplate(source, tokens)
        except RecursionError:
            raise AssetError(f"{path}: chat template {name!r} is nested too deep") from None
        except (TemplateError, SyntaxError) as error:
            line = getattr(error, "lineno", None)
            place = f" {name!r}" + (f", line {line}" if line else "")
            raise AssetError(f"{path}: chat template{place}: {error}") from None
    return ChatTemplates(named) if named else None


def _sources(directory: Path) -> Iterator[tuple[str, str, Path]]:
    """Yields (name, source, file); of two with the same name the second counts."""
    config = directory / CONFIG
    for name, source in _configured(read_json_if_there(config).get("chat_template"), config).items():
        yield name, source, config
    if (directory / FILE).exists():
        yield DEFAULT, read_text(directory / FILE), directory / FILE
    for path in sorted((directory / FOLDER).glob("*.jinja")):
        yield path.stem, read_text(path), path


def _configured(value: Any, path: Path) -> Mapping[str, str]:
    """Returns the templates of the field `chat_template` by name: one string, or a list of named templates."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        named: dict[Any, Any] = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        if len(named) == len(value) and all(isinstance(text, str) for text in (*named, *named.values())):
            return named
    raise AssetError(f"{path}: chat_template must be a string or a list of objects with name and template")
