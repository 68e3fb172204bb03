"""`caracal chat`: turns of a pipe, an interactive terminal, Ctrl-C, reasoning, tool calls."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.scripted_endpoint import Body, ScriptedEndpoint, chat
from support.user_commands import COMMAND, command, new_user, one_line

from services.cli.chat_history import Answer, History

pytestmark = pytest.mark.processes
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    return new_user(tmp_path)


def piped(user: dict[str, str], server: ScriptedEndpoint, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [*COMMAND, "chat", "--url", server.url, *words]
    return subprocess.run(arguments, env=user, input=text, capture_output=True, text=True, timeout=60)


class Terminal:
    """A pseudo-terminal with `caracal chat` in it."""

    def __init__(self, main: int, process: subprocess.Popen[bytes]) -> None:
        self.main, self.process, self.output = main, process, ""

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Types Ctrl-C until the output has the pattern.

        Python's readline sees a signal only while it waits: not one between the echo of a key and the next wait.
        """
        for _ in range(5):
            self.type("\x03")
            with suppress(TimeoutError):
                self.until(pattern, 5)
                return
        raise AssertionError(f"no {pattern!r} in {self.output!r}")

    def until(self, pattern: str, seconds: float = 0.0) -> str:
        """Reads until the output since the last call has the pattern; returns that output.

        Raises TimeoutError when it has not after `seconds`; without them the test fails after half a minute.
        """
        deadline = time.monotonic() + (seconds or 30)
        while not (found := re.search(pattern, self.output)):
            if seconds and time.monotonic() >= deadline:
                raise TimeoutError
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.output!r}"
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.main, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"it ended without {pattern!r}: {self.output!r}") from None
        before, self.output = self.output[: found.end()], self.output[found.end() :]
        return before


@contextmanager
def terminal(user: dict[str, str], server: ScriptedEndpoint, *words: str) -> Iterator[Terminal]:
    main, other = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "chat", "--url", server.url, *words],
        env=user,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )
    os.close(other)
    try:
        yield Terminal(main, process)
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_each_line_of_a_pipe_is_a_turn_of_one_conversation(user: dict[str, str]) -> None:
    with ScriptedEndpoint(lambda body: chat({"content": f"answer {len(body['messages'])}"})) as server:
        options = ("--system", "be brief", "--temperature", "0.5", "--max-tokens", "7", "--seed", "3", "--model", "m")
        done = piped(user, server, "one\n\ntwo \\\nlines\n/clear\nthree\n", *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "answer 2\nanswer 4\nanswer 2\n"
        first, second, third = server.bodies
        assert {"temperature": 0.5, "max_tokens": 7, "seed": 3, "model": "m", "stream": True}.items() <= first.items()
        system = {"role": "system", "content": "be brief"}
        assert second["messages"] == [
            system,
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "answer 2"},
            {"role": "user", "content": "two \nlines"},
        ]
        assert third["messages"] == [system, {"role": "user", "content": "three"}]


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "utf-8:strict"}], ids=str)
def test_a_pipe_that_is_not_utf_8_ends_at_that_line(user: dict[str, str], locale: dict[str, str]) -> None:
    with ScriptedEndpoint(lambda body: chat({"content": f"answer {len(body['messages'])}"})) as server:
        arguments = [*COMMAND, "chat", "--url", server.url]
        sent = "猫\n".encode() + b"caf\xe9\nnot sent\n"
        done = subprocess.run(arguments, env=user | locale, input=sent, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, b"answer 1\n")
        assert done.stderr == b"caracal: a line of standard input is not UTF-8; it is not sent\n"
        assert server.bodies[0]["messages"] == [{"role": "user", "content": "猫"}]


def test_a_line_that_is_not_utf_8_ends_no_conversation(user: dict[str, str]) -> None:
    """Without readline, which takes no such bytes."""
    with (
        ScriptedEndpoint(lambda body: chat({"content": "hi"})) as server,
        terminal(user | {"TERM": "dumb"}, server) as one,
    ):
        one.until("> ")
        os.write(one.main, b"caf\xe9\r")
        one.until("not UTF-8; it is not sent")
        one.until("> ")
        one.type("hello\r")
        one.until("\nhi")
        assert [body["messages"][-1]["content"] for body in server.bodies] == ["hello"]


def test_commands_save_and_show(user: dict[str, str], tmp_path: Path) -> None:
    with ScriptedEndpoint(lambda body: chat({"content": "hi"})) as server:
        file = tmp_path / "talk.json"
        commands = ["/system", "/system be kind", "/system", "hello", f"/save {file}", "/save", "/save /no/such/x"]
        text = "\n".join([*commands, "/nothing", "/help", "/exit", "not sent", ""])
        done = piped(user, server, text)
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert lines[:3] == ["(no system message)", "be kind", "hi"]
        assert "/save needs a file" in lines
        assert "/no/such/x: No such file or directory" in lines
        assert "there is no /nothing" in lines
        assert [one["content"] for one in json.loads(file.read_text())["messages"]] == ["be kind", "hello", "hi"]
        assert len(server.bodies) == 1


def test_reasoning_and_tool_calls_are_distinct_and_results_are_asked_for(user: dict[str, str], tmp_path: Path) -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"city": '}}
    rest = {"index": 0, "function": {"arguments": '"Rome"}'}}
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(TOOLS))

    def script(body: Body) -> list[Any]:
        if body["messages"][-1]["role"] == "tool":
            return chat({"content": "It is sunny."})
        return chat(
            {"reasoning_content": "Which tool"}, {"reasoning": "?"}, {"tool_calls": [call]}, {"tool_calls": [rest]}
        )

    with ScriptedEndpoint(script) as server:
        done = piped(user, server, "weather in Rome?\nsunny\n", "--tools", str(tools))
        assert done.stdout == '[thinking] Which tool?\n[tool call] weather {"city": "Rome"}\nIt is sunny.\n'
        assert server.bodies[0]["tools"] == TOOLS
        assistant, tool = server.bodies[1]["messages"][1:]
        assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
        assert tool == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}


def test_a_turn_that_fails_ends_a_pipe_with_1(user: dict[str, str]) -> None:
    with ScriptedEndpoint(lambda body: [400, "too long"]) as server:
        done = piped(user, server, "one\ntwo\n")
        assert (done.returncode, done.stderr) == (1, "caracal: too long\n")
        assert len(server.bodies) == 1


def test_a_terminal_without_capabilities_and_without_utf8(user: dict[str, str]) -> None:
    plain = user | {"TERM": "dumb", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    deltas = {"reasoning": "hm"}, {"content": "na\x1b[2Jïve\x07 “yes” \x9b1m日"}
    with ScriptedEndpoint(lambda body: chat(*deltas)) as server, terminal(plain, server) as screen:
        screen.until("> ")
        screen.type("hello\r")
        output = screen.until("\n> ")
        assert '[thinking] hm\r\nna[2Jive "yes" 1m?\r\n' in output
        assert "\033" not in output
        screen.type("\x04")
        assert screen.process.wait(10) == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(user: dict[str, str]) -> None:
    never = threading.Event()

    def script(body: Body) -> list[Any]:
        events = chat({"content": f"part {len(body['messages'])}"}, {"content": " rest"})
        return [*events[:2], never, *events[2:]] if len(server.bodies) == 1 else events

    with ScriptedEndpoint(script) as server, terminal(user | {"TERM": "xterm"}, server) as screen:
        screen.until("> ")
        screen.type("first\r")
        screen.until("part 1")
        screen.type("\x03")
        screen.until(r"\(stopped\)\r\n.*> ")
        screen.type("second\r")
        screen.until("part 3 rest")
        assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "part 1"}, "what came is kept"
        screen.until("> ")
        screen.type("half a li")
        screen.until("half a li")  # it reads by now
        screen.interrupt("/exit or Ctrl-D leaves")
        screen.type("/exit\r")
        assert screen.process.wait(10) == 0
        never.set()


def test_no_gateway_and_bad_tools(user: dict[str, str], tmp_path: Path) -> None:
    assert "no cluster is running here" in one_line(command(user, "chat"))
    (tmp_path / "x.json").write_text("{}")
    done = command(user, "chat", "--tools", str(tmp_path / "x.json"))
    assert (done.returncode, "not a JSON list" in one_line(done)) == (2, True)


def test_results_of_several_calls_are_awaited_in_their_order() -> None:
    answer, history = Answer(), History()
    assert history.add("go")
    answer.take({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "two", "arguments": "{}"}}]})
    answer.take({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "one", "arguments": "{}"}}]})
    history.messages.append(answer.message())
    assert history.awaited
    assert history.awaited["id"] == "a"
    assert not history.add("result a"), "the model waits for the other result"
    assert history.awaited["id"] == "b"
    assert history.add("result b")
    assert history.awaited is None
