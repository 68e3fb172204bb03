"""URLs of a gateway in every form that users give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.user_commands import command, lines_until, one_line, up

from services.cli.gateway_url import gateway_url

FORMS = {
    "http://127.0.0.1:8000": "http://127.0.0.1:8000",
    "http://127.0.0.1:8000/": "http://127.0.0.1:8000",
    "http://127.0.0.1:8000/v1": "http://127.0.0.1:8000",
    "http://127.0.0.1:8000/v1/": "http://127.0.0.1:8000",
    " 127.0.0.1:8000/v1 ": "http://127.0.0.1:8000",
    "localhost:8000": "http://localhost:8000",
    "[::1]:8000/v1": "http://[::1]:8000",
    "https://example.org/llm/v1": "https://example.org/llm",
    "http://127.0.0.1:8000/v1/chat/completions": "http://127.0.0.1:8000",
    "127.0.0.1:8000/v1/completions/": "http://127.0.0.1:8000",
    "http://127.0.0.1:8000//": "http://127.0.0.1:8000",
    "https://example.org/v1x": "https://example.org/v1x",
    "https://example.org/v10": "https://example.org/v10",
    "": "",
}


@pytest.mark.parametrize("text", FORMS)
def test_every_form_names_the_gateway(text: str) -> None:
    assert gateway_url(text) == FORMS[text]


@pytest.mark.processes
def test_commands_take_every_form(user: dict[str, str], model: Path) -> None:
    with up(user, "--model", str(model), "--port", "0") as process:
        output = lines_until(process, "Ctrl-C stops everything")
        url = output.partition("serves at ")[2].split()[0]
        for form in (url, f"{url}/v1", f"{url}/v1/", url.removeprefix("http://"), url.removeprefix("http://") + "/v1"):
            done = command(user, "generate", "the cat", "--max-tokens", "2", "--url", form)
            assert done.returncode == 0, done.stderr
            assert command(user, "status", "--gateway", form).returncode == 0
            by_variable = command(user | {"CARACAL_URL": form}, "status")
            assert by_variable.returncode == 0, "the cluster of this URL was started here"


@pytest.mark.processes
@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://[::1", "http://host:port", "http://host:0"])
def test_what_is_no_url_is_one_line(user: dict[str, str], url: str) -> None:
    line = one_line(command(user, "generate", "hello", "--url", url))
    assert f"'{url}' is not the URL of a gateway: write http://HOST:PORT" in line
    assert "is not the URL of a gateway" in one_line(command(user, "status", "--gateway", url))
