"""`caracal verify` without a cluster: options and records that cannot be used, each in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from caracal_proto import attention_pb2
from support.user_commands import command, new_user, one_line

from services.router.recording.lines import Header, Recorded, header_line, request_line

pytestmark = pytest.mark.processes

USAGE = {
    "--set CARACAL_NO_SUCH=1": "--set CARACAL_NO_SUCH=1: CARACAL_NO_SUCH is no setting",
    "--set PATH=/": "--set PATH=/: PATH is no setting",
    "--set CARACAL_TP=2": "--set CARACAL_TP=2: --tp sets CARACAL_TP",
    "--set CARACAL_PORT=2": "this command sets CARACAL_PORT",
    "--expert 0": "--expert is 0: must be at least 1",
    "--link carrier": "--link is 'carrier'",
    "--model /nonexistent": "--model is /nonexistent",
    "--cache hot": "--cache is 'hot': must be cold or warm",
    "--running --cache cold": "--cache cold is for a cluster that is started",
    "--running --tp 2": "--tp is for a cluster that is started, and --running names one that runs",
    "--url http://127.0.0.1:1 --set CARACAL_PAGE_SIZE=32": "--set is for a cluster that is started, and --url",
}


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    return new_user(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A record whose model is not here."""
    header = Header(model="m", directory="/nonexistent/m", numerics_class="c", numerics={})
    recorded = Recorded(
        request_id="r",
        prompt_ids=[5],
        sampling=attention_pb2.Sampling(),
        ids=[6],
        checksums=[7],
        ending="cancel",
        numerics_class="c",
    )
    (tmp_path / "log.jsonl").write_bytes(header_line(header) + request_line(recorded))
    return tmp_path / "log.jsonl"


@pytest.mark.parametrize("words", USAGE)
def test_options_that_cannot_be_used(user: dict[str, str], log: Path, words: str) -> None:
    done = command(user, "verify", str(log), *words.split())
    assert done.returncode == 2
    assert USAGE[words] in one_line(done)


def test_records_that_cannot_be_used(user: dict[str, str], log: Path) -> None:
    assert "the record's model, /nonexistent/m, is not here: give --model" in one_line(
        command(user, "verify", str(log))
    )
    assert "no cluster is running here" in one_line(command(user, "verify", str(log), "--running"))
    torn = log.with_name("torn.jsonl")
    torn.write_bytes(log.read_bytes()[:-9])
    assert f"{torn}, line 2: not JSON, or cut short" in one_line(command(user, "verify", str(torn)))
    torn.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert f"{torn}: no request has anything to compare" in one_line(command(user, "verify", str(torn)))
