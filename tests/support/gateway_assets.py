"""The files of a checkpoint directory that the gateway reads: tokenizer, LongCat's special tokens, chat template."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

SPECIAL = ["<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>"]
TAGS = ["<longcat_tool_call>", "</longcat_tool_call>", "<longcat_think>", "</longcat_think>"]
BOS, EOS = 1, 2
CONTEXT = 512
TEXT = [
    "the cat sat on the mat",
    "hello world, hello caracal",
    "naïve café 猫 🐈",
    '{"name": "get", "arguments": {}}',
] * 4
TEMPLATE = """\
{%- if messages[0].role == "tool" %}{{ raise_exception("no boom") }}{% endif -%}
{%- if tools %}## Tools
{% for tool in tools %}{{ tool.function | tojson }}
{% endfor %}{% endif -%}
{%- for message in messages -%}
{%- if message.role == "system" %}SYSTEM:{{ message.content }} {% endif -%}
{%- if message.role == "user" %}[Round {{ loop.index0 }}] USER:{{ message.content }}{% endif -%}
{%- if message.role == "assistant" %} ASSISTANT:{{ message.content }}
{%- for call in message.tool_calls or [] %}<longcat_tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</longcat_tool_call>{% endfor %}</longcat_s>{% endif -%}
{%- if message.role == "tool" %} TOOL:{{ message.content }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %} ASSISTANT:{% endif -%}
"""


def train_tokenizer() -> Tokenizer:
    """Trains about 300 tokens. Any text round-trips; most characters outside ASCII are several tokens."""
    tokenizer = Tokenizer(BPE(unk_token=None))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.train_from_iterator(
        TEXT,
        BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=ByteLevel.alphabet(), show_progress=False),
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer.post_processor = TemplateProcessing(single="<longcat_s> $A", special_tokens=[("<longcat_s>", BOS)])
    return tokenizer


def write_assets(path: Path, *, context: int = CONTEXT, template: str | None = TEMPLATE) -> Path:
    """Writes the directory without weights; returns `path`."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    config = {"vocab_size": size + 4, "max_position_embeddings": context, "bos_token_id": BOS, "eos_token_id": EOS}
    (path / "config.json").write_text(json.dumps(config))
    names = {"bos_token": "<longcat_s>", "eos_token": {"content": "</longcat_s>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path
