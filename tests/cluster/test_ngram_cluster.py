"""N-gram tables, YaRN, sparse sublayers and drafts on processes: tables are shared, an attention worker is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cluster_harness import CALLERS, TOKENS, running_cluster, until
from support.tiny_checkpoint import NGRAM

pytestmark = pytest.mark.processes

STREAMING = {"sink_size": 128, "recent_size": 128, "sparsity": 0.5, "layer_type": "010101"}


def tables(folder: Path) -> list[str]:
    own = folder / f"caracal-tables-{os.getuid()}"
    return [path.name for path in own.iterdir() if path.name != "lock"]


def test_streams_survive_and_the_machine_has_one_copy_of_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "tables"
    shared.mkdir()
    monkeypatch.setenv("CARACAL_TABLES_DIR", str(shared))
    running = running_cluster(
        tmp_path, NGRAM | {"streaming_sparse_attention": STREAMING}, attention=2, expert=2, tp=2, draft=3
    )
    cluster = next(running)
    try:
        assert len(tables(shared)) == 1, "two workers of two ranks"
        before = {record.worker_id: record.boot_id for record in cluster.records("attention")}
        streams = cluster.streams()
        streams.wait_for_tokens(CALLERS * 30)
        cluster.kill("attention-0")
        until(
            lambda: [r for r in cluster.records("attention") if r.boot_id not in before.values() and r.epoch],
            "attention-0 was not restarted",
        )
        assert len(tables(shared)) == 1
        until(lambda: len(streams.all) > CALLERS, "no caller had a second answer to compare")
        answers = streams.finish()
    finally:
        running.close()
    assert not tables(shared), "the last user removes the file"
    for caller in answers:
        assert all(len(stream.ids) == TOKENS and stream.finish_reason == "length" for stream in caller)
        assert {(*stream.ids, *stream.checksums) for stream in caller} == {(*caller[0].ids, *caller[0].checksums)}
