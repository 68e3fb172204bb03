"""An episode: an agent, a user and an environment, turn by turn, until the user has no more to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from training.agentic.checkers import CheckerRole, program_checker
from training.agentic.environment import Call, parse_arguments, program_environment
from training.agentic.scenario import Scenario, State
from training.agentic.task import Task
from training.agentic.toolset import ToolSpec
from training.agentic.users import Message, User, program_user

REPLIES = 12  # of an agent; one that needs more has lost its way


class Executes(Protocol):
    """An environment: a state that calls change."""

    state: State
    calls: list[Call]

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]: ...


class Agent(Protocol):
    """What is tested or trained."""

    def reply(self, messages: list[Message], tools: tuple[dict[str, Any], ...]) -> Message:
        """Returns an assistant message of the OpenAI API. Raises AgentFailed when there is none."""
        ...


class AgentFailed(Exception):
    """The agent gave no reply; the episode ends with this as its ending."""


UserRole = Callable[[Task], User]
EnvironmentRole = Callable[[Scenario, tuple[ToolSpec, ...]], Executes]


@dataclass(frozen=True)
class Roles:
    """Who takes part beside the agent. Each is a program by default."""

    user: UserRole = program_user
    environment: EnvironmentRole = program_environment
    checker: CheckerRole = program_checker


@dataclass
class Episode:
    """`ending`: done, too long, broken call, or why the agent gave no reply."""

    task: Task
    messages: list[Message] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    ending: str = "too long"
    success: bool = False


def play(task: Task, agent: Agent, roles: Roles | None = None) -> Episode:
    """Plays a task to its end."""
    roles = roles or Roles()
    user, environment = roles.user(task), roles.environment(task.scenario, task.tools)
    episode = Episode(task)
    messages = episode.messages
    messages.append({"role": "user", "content": user.next([]) or ""})
    calls = 0
    for _ in range(REPLIES):
        try:
            reply = agent.reply(messages, task.declarations)
        except AgentFailed as error:
            episode.ending = str(error)
            break
        made = reply.get("tool_calls") or []
        arguments = [parse_arguments(call["function"]["arguments"]) for call in made]
        messages.append(_kept(reply, calls))
        if any(one is None for one in arguments):
            episode.ending = "broken call"
            break
        for call, given in zip(made, arguments, strict=True):
            calls += 1
            result = json.dumps(environment.call(call["function"]["name"], given or {}))
            messages.append({"role": "tool", "tool_call_id": f"call_{calls}", "content": result})
        if not made:
            said = user.next(messages)
            if said is None:
                episode.ending = "done"
                break
            messages.append({"role": "user", "content": said})
    episode.calls = environment.calls
    episode.success = roles.checker(task, environment.state)
    return episode


def _kept(reply: Message, calls: int) -> Message:
    """Returns the part of a reply that goes into a conversation; calls are numbered, because ids differ by server."""
    message: Message = {"role": "assistant", "content": reply.get("content") or None}
    if made := reply.get("tool_calls"):
        message["tool_calls"] = [
            {
                "id": f"call_{calls + number}",
                "type": "function",
                "function": {key: call["function"][key] for key in ("name", "arguments")},
            }
            for number, call in enumerate(made, 1)
        ]
    elif message["content"] is None:
        message["content"] = ""
    return message
