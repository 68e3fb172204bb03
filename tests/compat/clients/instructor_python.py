"""instructor, the Python package: answers as pydantic models, through OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import instructor
import openai
from compat import features as f
from compat.features import Servers, raised
from instructor.core import InstructorRetryException
from pydantic import BaseModel, ConfigDict


class Parity(BaseModel):
    """Whether the result is even."""

    model_config = ConfigDict(extra="forbid")  # a schema that allows other keys lets a small model make some up

    even: bool


QUESTION: Any = [{"role": "user", "content": f.QUESTION}]


def client(servers: Servers, mode: Any = instructor.Mode.TOOLS) -> Any:
    inner = openai.OpenAI(base_url=servers.v1, api_key="unused", max_retries=0)
    return instructor.from_openai(inner, mode=mode)


def structured_output(servers: Servers) -> None:
    answer = client(servers, instructor.Mode.JSON_SCHEMA).create(
        model=servers.model, messages=QUESTION, response_model=Parity, temperature=0, max_retries=0
    )
    assert isinstance(answer, Parity)


def forced_tool(servers: Servers) -> None:
    answer = client(servers).create(
        model=servers.model, messages=QUESTION, response_model=Parity, temperature=0, max_retries=0
    )
    assert isinstance(answer, Parity)


def streaming(servers: Servers) -> None:
    pieces: Iterable[Parity] = client(servers).create_partial(
        model=servers.model, messages=QUESTION, response_model=Parity, temperature=0
    )
    assert isinstance(list(pieces)[-1].even, bool)


def errors(servers: Servers) -> None:
    messages = [{"role": "user", "content": f.TOO_LONG}]
    call: Any = {"model": servers.model, "messages": messages, "response_model": Parity, "max_retries": 0}
    error = raised(InstructorRetryException, lambda: client(servers).create(**call))
    assert isinstance(error.__cause__, openai.BadRequestError)
