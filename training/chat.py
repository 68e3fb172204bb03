"""Dialogues as text, in the chat format of LongCat-Flash-Chat, cut into prompts and answers.

`chat_template.jinja` says the same for servers; a test compares the two.
"""

from __future__ import annotations

import json
from typing import Any

from training.dialogues import Dialogue

CALL, END_CALL, END = "<longcat_tool_call>", "</longcat_tool_call>", "</longcat_s>"
_EXAMPLE = f'{CALL}\n{{"name": <function-name>, "arguments": <args-dict>}}\n{END_CALL}'
NOTE = (
    "**Note**: For each function call, return a json object with function name and arguments "
    f"within {CALL}{END_CALL} XML tags as follows:\n{_EXAMPLE}\n"
    "When multiple functions need to be called simultaneously, each function call should be wrapped in its own "
    f"{CALL} tag and placed consecutively. For example:\n{_EXAMPLE}{_EXAMPLE}"
)
Segment = tuple[str, bool]  # text, and whether the model has to produce it


def tools_block(tools: tuple[dict[str, Any], ...]) -> str:
    """What stands before the messages when tools are declared."""
    if not tools:
        return ""
    parts = ["## Tools\nYou have access to the following tools: \n\n### Tool namespace: function\n\n"]
    for tool in tools:
        function = tool["function"]
        schema = json.dumps(function["parameters"], indent=2)
        parts.append(f"#### Tool name: {function['name']}\n\nDescription: {function['description']}\n\n")
        parts.append(f"InputSchema: \n{schema}\n\n")
    return "".join(parts) + NOTE + "\n\n## Messages\n"


def reply(message: dict[str, Any]) -> str:
    """An assistant message as the model writes it, without the closing `</longcat_s>`."""
    return (message["content"] or "") + "".join(_call(call["function"]) for call in message.get("tool_calls", ()))


def _call(function: dict[str, str]) -> str:
    name = json.dumps(function["name"])
    return f'{CALL}\n{{"name": {name}, "arguments": {function["arguments"]}}}\n{END_CALL}'


def segments(dialogue: Dialogue) -> list[Segment]:
    """The whole dialogue as alternating prompt and answer texts."""
    parts: list[Segment] = []
    prompt, rounds, gap = tools_block(dialogue.tools), 0, ""
    for message in dialogue.messages:
        role = message["role"]
        if role == "assistant":
            parts += [(f"{prompt}{gap}ASSISTANT:", False), (reply(message) + END, True)]
            prompt = ""
        elif role == "user":
            prompt += f"{gap}[Round {rounds}] USER:{message['content']}"
            rounds += 1
        else:
            prompt += f"{gap}{role.upper()}:{message['content']}"
        gap = " "
    return parts
