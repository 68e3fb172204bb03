"""One copy of the n-gram tables per machine: shared, removed by its last user, never half full or another user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.expert_workers import REPO
from torch import Tensor

from services.checkpoint.errors import CheckpointError
from services.checkpoint.shared_tables import Fill, SharedTables, TableShape
from services.checkpoint.tables_folder import remove_unused_tables

SHAPES = [TableShape(7, 3), TableShape(1001, 8), TableShape(5, 1)]


def numbered(table: int, into_RW: Tensor) -> None:
    into_RW.copy_(torch.arange(into_RW.numel()).view_as(into_RW) % 100 + table)


def refused(table: int, into_RW: Tensor) -> None:
    raise AssertionError("the tables were there already")


def holds(tables: list[Tensor]) -> bool:
    return all(torch.equal(table, made(number, table)) for number, table in enumerate(tables))


def made(number: int, like: Tensor) -> Tensor:
    expected = torch.empty_like(like)
    numbered(number, expected)
    return expected


def opened(folder: Path, key: str = "one", fill: Fill = numbered) -> SharedTables:
    return SharedTables.open(folder, key, SHAPES, torch.bfloat16, fill, holds)


def own(folder: Path) -> Path:
    return folder / f"caracal-tables-{os.getuid()}"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in own(folder).iterdir() if path.name != "lock")


def test_the_second_user_takes_what_the_first_has_made(tmp_path: Path) -> None:
    first = opened(tmp_path)
    second = opened(tmp_path, fill=refused)
    assert (first.made_here, second.made_here) == (True, False)
    assert holds(first.tables)
    assert holds(second.tables)
    assert len(files(tmp_path)) == 1
    first.close()
    assert len(files(tmp_path)) == 1
    second.close()
    assert not files(tmp_path)


def test_other_content_is_another_file(tmp_path: Path) -> None:
    kept = [opened(tmp_path, key) for key in ("one", "two")]
    assert [tables.made_here for tables in kept] == [True, True]
    assert len(files(tmp_path)) == 2


def test_a_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    def breaks(table: int, into_RW: Tensor) -> None:
        if table == 1:
            raise CheckpointError("model.safetensors: table 1: holds NaN")

    with pytest.raises(CheckpointError, match="holds NaN"):
        opened(tmp_path, fill=breaks)
    assert not files(tmp_path)
    assert opened(tmp_path).made_here


@pytest.mark.processes
def test_what_a_killed_process_left_is_taken_over_or_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time, torch; from pathlib import Path; sys.path.insert(0, 'tests/checkpoint')\n"
        "from test_shared_tables import opened; kept = opened(Path(sys.argv[1])); print('made', flush=True)\n"
        "time.sleep(100)"
    )
    path = os.pathsep.join(str(REPO / part) for part in ("", "kernels", "proto", "tests"))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPO, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    beside = opened(tmp_path, "another")
    assert len(files(tmp_path)) == 2, "held by a living process"
    beside.close()
    process.kill()
    process.communicate()
    assert len(files(tmp_path)) == 1
    taken = opened(tmp_path, fill=refused)
    taken.close()
    assert not files(tmp_path)


def test_what_nobody_holds_is_removed_by_the_next_user(tmp_path: Path) -> None:
    tables = opened(tmp_path)
    name = files(tmp_path)[0]
    content = (own(tmp_path) / name).read_bytes()
    tables.close()
    (own(tmp_path) / name).write_bytes(content)  # as if its last user had been killed
    (own(tmp_path) / f"{name[:-1]}x.partial").write_bytes(b"half")
    os.mkfifo(own(tmp_path) / "a-pipe")
    other = opened(tmp_path, "another")
    assert files(tmp_path) == [other.path.name]


def test_a_cluster_that_ends_removes_what_its_killed_workers_left(tmp_path: Path) -> None:
    assert remove_unused_tables(tmp_path / "nowhere")
    held, tables = opened(tmp_path, "another"), opened(tmp_path)
    content = tables.path.read_bytes()
    tables.close()
    tables.path.write_bytes(content)  # as if its last user had been killed
    assert not remove_unused_tables(tmp_path)
    assert files(tmp_path) == [held.path.name], "somebody uses it"
    held.close()
    assert remove_unused_tables(tmp_path)


def test_a_file_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.path.chmod(0o666)
    assert opened(tmp_path).made_here


def test_a_folder_without_room_or_that_is_missing_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(CheckpointError, match=f"{nowhere}: the n-gram tables cannot be put here: No such file"):
        opened(nowhere)
    huge = [TableShape(2**50, 8)]
    with pytest.raises(CheckpointError, match=r"the n-gram tables take 16777216\.0 GiB, .* give CARACAL_TABLES_DIR"):
        SharedTables.open(tmp_path, "huge", huge, torch.bfloat16, numbered, holds)
    assert not files(tmp_path)


def test_other_rows_under_the_same_name_are_made_anew_unless_somebody_uses_them(tmp_path: Path) -> None:
    first = opened(tmp_path)
    size = first.path.stat().st_size
    first.path.chmod(0o600)
    first.path.write_bytes(bytes(size))  # as after a loss of power; a worker that uses it sees it too
    with pytest.raises(CheckpointError, match="other workers use n-gram tables that are not the checkpoint's"):
        opened(tmp_path)
    first.close()
    second = opened(tmp_path)
    second.path.chmod(0o600)
    second.close()
    assert not files(tmp_path)
    left = own(tmp_path) / second.path.name
    left.write_bytes(bytes(size))
    left.chmod(0o400)
    again = opened(tmp_path)
    assert again.made_here
    assert holds(again.tables)


def test_a_folder_that_is_somebody_elses_is_not_used(tmp_path: Path) -> None:
    own(tmp_path).symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder of this user's"):
        opened(tmp_path)
    own(tmp_path).unlink()
    own(tmp_path).mkdir()
    own(tmp_path).chmod(0o777)
    with pytest.raises(CheckpointError, match="is not a folder of this user's"):
        opened(tmp_path)
