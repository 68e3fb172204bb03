"""Dialogues as text in the chat format of LongCat-Flash-Chat, split into prompts and answers.

`chat_template.jinja` renders the same format in servers; a test compares both.
"""

from __future__ import annotations

import json
from typing import Any

from training.data.dialogues import Dialogue

CALL, END_CALL, END = "<longcat_tool_call>", "</longcat_tool_call>", "</longcat_s>"
_EXAMPLE = f'{CALL}\n{{"name": <function-name>, "arguments": <args-dict>}}\n{END_CALL}'
NOTE = (
    "**Note**: For each function call, return a json object with function name and arguments "
    f"within {CALL}{END_CALL} XML tags as follows:\n{_EXAMPLE}\n"
    "When multiple functions need to be called simultaneously, each function call should be wrapped in its own "
    f"{CALL} tag and placed consecutively. For example:\n{_EXAMPLE}{_EXAMPLE}"
)
HEAD = "## Tools\nYou have access to the following tools: \n\n### Tool namespace: function\n\n"
NAME, DESCRIPTION, SCHEMA = "#### Tool name: ", "\n\nDescription: ", "\n\nInputSchema: \n"
TAIL = f"{NOTE}\n\n## Messages\n"
ROUND, USER = "[Round ", "] USER:"
ROLES = tuple(f"{role}:" for role in ("SYSTEM", "ASSISTANT", "TOOL"))
# What the format writes around a dialogue's own texts; a round or role that is not the first has a space before it.
FIXED = (HEAD, NAME, DESCRIPTION, SCHEMA, TAIL, ROUND, f" {ROUND}", USER, *ROLES, *(f" {role}" for role in ROLES))
Segment = tuple[str, bool]  # text, and whether the model has to generate it


def tools_block(tools: tuple[dict[str, Any], ...]) -> str:
    """Returns the text before the messages, which declares the tools; empty without tools."""
    if not tools:
        return ""
    parts = [HEAD]
    for tool in tools:
        function = tool["function"]
        schema = json.dumps(function["parameters"], indent=2)
        parts.append(f"{NAME}{function['name']}{DESCRIPTION}{function['description']}{SCHEMA}{schema}\n\n")
    return "".join(parts) + TAIL


def reply(message: dict[str, Any]) -> str:
    """Returns an assistant message as the model writes it, without the closing `</longcat_s>`."""
    return (message["content"] or "") + "".join(_call(call["function"]) for call in message.get("tool_calls", ()))


def _call(function: dict[str, str]) -> str:
    name = json.dumps(function["name"])
    return f'{CALL}\n{{"name": {name}, "arguments": {function["arguments"]}}}\n{END_CALL}'


def segments(dialogue: Dialogue) -> list[Segment]:
    """Returns the dialogue as alternating texts of prompts and answers."""
    parts: list[Segment] = []
    prompt, rounds, gap = tools_block(dialogue.tools), 0, ""
    for message in dialogue.messages:
        role = message["role"]
        if role == "assistant":
            parts += [(f"{prompt}{gap}ASSISTANT:", False), (reply(message) + END, True)]
            prompt = ""
        elif role == "user":
            prompt += f"{gap}{ROUND}{rounds}{USER}{message['content']}"
            rounds += 1
        else:
            prompt += f"{gap}{role.upper()}:{message['content']}"
        gap = " "
    return parts
