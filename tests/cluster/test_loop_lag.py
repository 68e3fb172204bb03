"""A router of 28 x 512 experts serves others while workers come and go: its event loop is late for nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny_checkpoint import make_checkpoint

from bench.control.processes import ControlPlane, control_plane

pytestmark = pytest.mark.processes

EXPERT_WORKERS, ATTENTION_WORKERS = 16, 4
LATE_S = "0.05"  # when the placement ran on the loop, most ticks were later than that
LATE = 0.05  # of the ticks: others use this machine, too


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder: Path = tmp_path_factory.mktemp("lag")
    sizes = {"num_layers": 28, "n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12}
    widths = {"hidden_size": 32, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16}
    model = make_checkpoint(folder / "model", **sizes, **widths)  # type: ignore[arg-type]  # overrides of the config
    with control_plane(model, folder / "logs", routers=1, replicas=2) as control:
        control.fakes.ask(join=["attention", ATTENTION_WORKERS], wait=False)
        control.fakes.ask(join=["expert", EXPERT_WORKERS])
        yield control


def late_ticks(control: ControlPlane, seconds: float) -> tuple[float, float]:
    """(ticks, those that were late) of so many seconds."""
    router = control.routers[0]
    before, began_s = router.lag_buckets(), time.monotonic()
    while time.monotonic() < began_s + seconds:
        time.sleep(0.05)
    after = router.lag_buckets()
    ticks, in_time = (after[bucket] - before[bucket] for bucket in ("count", LATE_S))
    return ticks, ticks - in_time


def test_the_loop_is_not_late_while_nothing_happens(control: ControlPlane) -> None:
    ticks, late = late_ticks(control, 2)
    assert ticks > 10
    assert late <= LATE * ticks


def test_the_loop_is_not_late_while_workers_join_drain_and_die(control: ControlPlane) -> None:
    router = control.routers[0]
    before = router.lag_buckets()
    for number in range(4):
        control.fakes.ask(join=["expert", 1])
        control.fakes.ask(drain=f"expert-{number}")
        control.fakes.ask(kill=f"expert-{number}", wait=False)
        control.fakes.ask(kill=f"expert-{number + 4}")
    after = router.lag_buckets()
    ticks, in_time = (after[bucket] - before[bucket] for bucket in ("count", LATE_S))
    assert ticks > 10
    assert ticks - in_time <= max(1, LATE * ticks)
