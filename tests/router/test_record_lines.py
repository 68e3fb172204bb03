"""The lines of a record: what is written is read back, and what is none of it is refused by line and field."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from caracal_proto import attention_pb2

from services.cli.verify.logs import BadLog, read, summarise
from services.router.recording.lines import (
    PART,
    BadLine,
    Header,
    Recorded,
    Scored,
    header_line,
    parse_line,
    request_line,
)

HEADER = Header(model="m", directory="/models/m", numerics_class="class-a", numerics={"weights": "d1"})
SAMPLING = attention_pb2.Sampling(
    temperature=0.7,
    top_p=0.9,
    seed=2**64 - 3,
    logit_bias={5: -1.25},
    stop_ids=[2, 7],
    max_tokens=9,
    logprobs=True,
    top_logprobs=1,
    grammar='{"grammars":[]}',
    banned=[attention_pb2.TokenIds(ids=[1, 2])],
    reasoning=attention_pb2.Reasoning(begin_id=4, end_id=5, budget=0),
    prompt_logprobs=0,
)


def as_fp32(value: float) -> float:
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


RECORDED = Recorded(
    request_id="r-0.0",
    started=12.5,
    numerics_class="class-a",
    attempts=2,
    prompt_ids=[3, 4, 5],
    sampling=SAMPLING,
    stop=("END",),
    ids=[6, 2],
    checksums=[2**32 - 1, 0],
    logprobs=[Scored(as_fp32(-0.1), ((6, as_fp32(-0.1)),)), Scored(as_fp32(-1e-30), ())],
    prompt_logprobs=[Scored(as_fp32(-3.3), (), 4)],
    ending="stop",
    finish_reason="stop",
    stop_id=2,
)


def test_what_is_written_is_read_back_bit_for_bit() -> None:
    assert parse_line(header_line(HEADER)) == HEADER
    assert parse_line(request_line(RECORDED)) == RECORDED


def test_what_was_not_asked_for_is_not_written() -> None:
    plain = Recorded(
        request_id="r", prompt_ids=[1], sampling=attention_pb2.Sampling(), ids=[], checksums=[], ending="cancel"
    )
    line = request_line(plain)
    assert "logprobs" not in json.loads(line)
    assert parse_line(line) == plain


def test_long_lists_are_written_whole() -> None:
    long = replace(RECORDED, prompt_ids=list(range(2 * PART + 1)), ids=[], checksums=[], logprobs=None)
    assert parse_line(request_line(long)) == long


def changed(**values: Any) -> bytes:
    """A request's line with other values; None takes the field away."""
    raw = json.loads(request_line(RECORDED)) | values
    return json.dumps({name: value for name, value in raw.items() if value is not None}).encode()


BAD: dict[bytes, str] = {
    request_line(RECORDED)[:-40]: "not JSON, or cut short",
    b"\xff\xfe{}": "not JSON, or cut short",
    b"[" * 100_000: "not JSON, or cut short",
    b"[]": "not an object",
    b"{}": "ids is missing",
    header_line(HEADER).replace(b'"caracal_record":1', b'"caracal_record":2'): "caracal_record is 2: this version",
    changed(ids="x"): "ids is 'x', not a list",
    changed(ids=[1, -1]): r"ids\[1\] is -1, not a whole number of 32 bits",
    changed(ids=[1, True]): r"ids\[1\] is True",
    changed(checksums=[1]): "checksums has 1 entries, ids has 2",
    changed(logprobs=[]): "logprobs has 0 entries, ids has 2",
    changed(logprobs=[[0.1, [], 0], [1e300, [], 0]]): r"logprobs\[1\] is not",
    changed(prompt_logprobs=[[-1, [[1]], 0]]): r"prompt_logprobs\[0\] is not",
    changed(prompt_ids=[]): "prompt_ids is empty",
    changed(ending="gone"): "ending is 'gone', not 'stop'",
    changed(request_id=None): "request_id is missing",
    changed(request_id="a\x1b[2J"): "request_id is too long or not printable",
    changed(sampling={"top_k": "many"}): "sampling cannot be used: .*top_k",
    changed(sampling={"top_kk": 1}): "sampling cannot be used: .*top_kk",
    changed(sampling={"seed": 2**70}): "sampling cannot be used: .*seed",
    changed(started="now"): "started is 'now', not a number",
    changed(beam_width=4): "'beam_width' is no field that this version of caracal knows",
    request_line(RECORDED).replace(b"12.5", b"NaN"): "not JSON",
    changed(attempts=-1): "attempts is -1",
}


@pytest.mark.parametrize("line", BAD, ids=[why[:30] for why in BAD.values()])
def test_a_bad_line_is_named_by_its_field(line: bytes) -> None:
    with pytest.raises(BadLine, match=BAD[line]) as caught:
        parse_line(line)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_bad_line_of_a_file_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(header_line(HEADER) + request_line(RECORDED) + changed(ids=[-1]) + b"\n")
    with pytest.raises(BadLog, match=rf"{file}, line 3: ids\[0\] is -1"):
        summarise([file])
    file.write_bytes(request_line(RECORDED))
    with pytest.raises(BadLog, match="line 1: numerics_class is 'class-a', and no header before it"):
        summarise([file])
    with pytest.raises(BadLog, match="absent: No such file"):
        summarise([tmp_path / "absent"])


def test_files_are_read_one_after_another(tmp_path: Path) -> None:
    nothing = Recorded(
        request_id="n", prompt_ids=[1], sampling=attention_pb2.Sampling(), ids=[], checksums=[], ending="error"
    )
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(header_line(HEADER) + request_line(nothing) + request_line(RECORDED))
    found = summarise(files)
    assert (found.total, found.requests, found.without_tokens) == (2, {"class-a": 2}, 2)
    assert [(entry.file.name, entry.line, entry.comparable) for entry in read(files)] == [
        *(("a", 2, False), ("a", 3, True)),
        *(("b", 2, False), ("b", 3, True)),
    ]
