"""The recorder: owner-only files of bounded size, and no loss that is not counted."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from caracal_proto import attention_pb2

from services.cli.verify.logs import read, summarise
from services.router.recording.lines import Header, Recorded, parse_line
from services.router.recording.metrics import RecordMetrics
from services.router.recording.record_file import RecordFile
from services.router.recording.recorder import Recorder, Source

SOURCE = Source(model="m", directory=Path("/m"), parts=lambda name: {"weights": name})


def answer(number: int, numerics_class: str = "a", tokens: int = 3) -> Recorded:
    return Recorded(
        request_id=f"r{number}",
        prompt_ids=[1, 2],
        sampling=attention_pb2.Sampling(seed=number),
        ids=list(range(tokens)),
        checksums=[number] * tokens,
        ending="stop",
        numerics_class=numerics_class,
        attempts=1,
    )


def lost(metrics: RecordMetrics, reason: str) -> float:
    return float(metrics.dropped.labels(reason)._value.get())


@contextmanager
def recording(path: Path, most_bytes: int = 10**9, files: int = 4) -> Iterator[tuple[Recorder, RecordMetrics]]:
    metrics = RecordMetrics()
    recorder = Recorder(RecordFile(path, most_bytes, files), SOURCE, metrics)
    try:
        yield recorder, metrics
    finally:
        recorder.close()


def test_each_class_has_its_header_before_its_first_request(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.touch(mode=0o644)
    with recording(path) as (recorder, metrics):
        for number, name in enumerate("aab"):
            recorder.submit(answer(number, name))
        recorder.submit(answer(3, ""))  # one that failed before any worker was asked
    lines = [parse_line(line) for line in path.read_bytes().splitlines()]
    kinds = [line.numerics_class if isinstance(line, Header) else line.request_id for line in lines]
    assert kinds == ["a", "r0", "r1", "b", "r2", "r3"]
    assert isinstance(lines[0], Header)
    assert lines[0].numerics == {"weights": "a"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert metrics.written._value.get() == 4
    assert metrics.bytes._value.get() == path.stat().st_size


def test_files_are_of_bounded_size_and_each_can_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with recording(path, most_bytes=1500, files=3) as (recorder, _):
        for number in range(40):
            recorder.submit(answer(number))
    files = [tmp_path / f"record.jsonl{end}" for end in (".2", ".1", "")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    kept = []
    for file in files:
        assert file.stat().st_size <= 1500
        assert summarise([file]).total > 1
        kept += [entry.recorded.request_id for entry in read([file])]
    assert kept == [f"r{number}" for number in range(40 - len(kept), 40)]


def test_a_file_that_is_moved_or_deleted_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with recording(path) as (recorder, metrics):
        recorder.submit(answer(0))
        while metrics.written._value.get() < 1:
            threading.Event().wait(0.005)
        path.rename(tmp_path / "moved")
        recorder.submit(answer(1))
    assert [entry.recorded.request_id for entry in read([tmp_path / "moved", path])] == ["r0", "r1"]
    assert summarise([path]).total == 1


def test_what_a_full_disk_does_not_take_is_counted_and_leaves_no_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with recording(path) as (recorder, metrics):
        recorder.submit(answer(0))
        while metrics.written._value.get() < 1:
            threading.Event().wait(0.005)
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))  # as of a full disk: a part is written
        try:
            recorder.submit(answer(1))
            while lost(metrics, "disk") < 1:
                threading.Event().wait(0.005)
            assert path.stat().st_size == size
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        recorder.submit(answer(2))
    assert [entry.recorded.request_id for entry in read([path])] == ["r0", "r2"]
    assert lost(metrics, "disk") == 1


class SlowLines:
    """A disk that takes nothing until it is `released`."""

    opened = 1

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.released, self.asked = threading.Event(), threading.Event()

    def make_room(self, size: int) -> None:
        self.asked.set()
        assert self.released.wait(20)

    def append(self, data: bytes) -> None:
        self.lines.append(data)

    def close(self) -> None: ...


def test_a_slow_disk_makes_nobody_wait_and_what_is_too_much_is_counted() -> None:
    disk, metrics = SlowLines(), RecordMetrics()
    recorder = Recorder(disk, SOURCE, metrics, most_waiting_bytes=200)
    recorder.submit(answer(0))
    assert disk.asked.wait(20)
    for number in range(1, 20):
        recorder.submit(answer(number))
    missing = lost(metrics, "queue")
    assert missing > 10
    disk.released.set()
    recorder.close()
    assert len(disk.lines) == 20 - missing


def test_a_line_that_a_crash_cut_short_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with recording(path) as (recorder, _):
        recorder.submit(answer(0))
    with path.open("ab") as file:
        file.write(b'{"request_id":"' + b"x" * 200_000)
    with recording(path) as (recorder, _):
        recorder.submit(answer(1))
    assert [entry.recorded.request_id for entry in read([path])] == ["r0", "r1"]


@pytest.mark.parametrize("kind", ["busy", "link", "folder", "absent folder", "fifo"])
def test_a_file_that_cannot_be_used_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "record.jsonl"
    used: Any = None
    if kind == "busy":
        used = RecordFile(path, 10**6, 2)
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = tmp_path / "none" / "record.jsonl"
    with pytest.raises(OSError, match=r"\w"):
        RecordFile(path, 10**6, 2)
    if used is not None:
        used.close()
