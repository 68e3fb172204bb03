"""Rates of experts: exact however time is divided, right on average from the start, and checked on their way.

Legend: L layers, F FFN experts of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from caracal_proto.expert_pb2 import LayerLoad, LoadReply
from caracal_proto.loads import LoadError, WorkerLoad, pack_load, unpack_load
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from services.expert_worker.load import TAU_S, ExpertLoad

LAYERS, EXPERTS = 2, 3
START_S = 1000.0
PER_S_LF = np.array([[1.0, 0, 5], [200, 0.5, 3]])
ALL_LF = np.ones((LAYERS, EXPERTS), np.bool_)
SCALE = 1000  # so that counts of a steady load are whole numbers


def after(
    load: ExpertLoad,
    times_s: Iterable[float],
    counts_at: Callable[[float], NDArray[np.int64]],
    loaded_LF: NDArray[np.bool_] = ALL_LF,
    busy: float = 0.0,
) -> WorkerLoad:
    """The load after updates at `times_s`."""
    for now_s in times_s:
        found = load.update(counts_at(now_s), loaded_LF, busy * (now_s - START_S), now_s)
    return found


def steady(now_s: float) -> NDArray[np.int64]:
    return np.rint(SCALE * PER_S_LF * (now_s - START_S)).astype(np.int64)


def new_load() -> ExpertLoad:
    return ExpertLoad(LAYERS, EXPERTS, START_S)


@pytest.mark.parametrize("age_s", [0.5, 7, 60, 1000])
@pytest.mark.parametrize("ticks_s", [(0.5,), (0.25, 3, 0.25), (1000,)])
def test_a_steady_load_is_found_at_any_age_and_by_any_ticks(age_s: float, ticks_s: tuple[float, ...]) -> None:
    times_s: list[float] = []
    now_s = START_S
    while now_s < START_S + age_s:
        now_s = min(now_s + ticks_s[len(times_s) % len(ticks_s)], START_S + age_s)
        times_s.append(now_s)
    found = after(new_load(), times_s, steady, busy=0.25)
    np.testing.assert_allclose(found.rate_LF, SCALE * PER_S_LF, rtol=1e-9)
    assert found.assignments_per_s == pytest.approx(SCALE * PER_S_LF.sum())
    assert found.busy == pytest.approx(0.25)


def test_a_burst_fades_with_the_time_constant() -> None:
    counts_LF = np.zeros((LAYERS, EXPERTS), np.int64)
    load, burst_LF = new_load(), counts_LF.copy()
    burst_LF[1, 2] = 6000
    after(load, [START_S + 10_000], lambda now_s: counts_LF)
    at_once = load.update(burst_LF, ALL_LF, 0.0, START_S + 10_000.001)
    assert at_once.rate_LF[1, 2] == pytest.approx(6000 / TAU_S, rel=1e-4)
    later = load.update(burst_LF, ALL_LF, 0.0, START_S + 10_000 + TAU_S)
    assert later.rate_LF[1, 2] == pytest.approx(6000 / TAU_S / np.e, rel=1e-4)
    assert later.rate_LF.sum() == later.rate_LF[1, 2] == pytest.approx(later.assignments_per_s)


def test_an_update_at_the_moment_of_the_last_loses_nothing() -> None:
    load = new_load()
    first = load.update(np.zeros((LAYERS, EXPERTS), np.int64), ALL_LF, 0.0, START_S)
    assert not first.rate_LF.any()
    assert (first.window_s, first.busy, first.assignments_per_s) == (0, 0, 0)
    after(load, [START_S + 1], steady)
    again = load.update(steady(START_S + 3), ALL_LF, 0.0, START_S + 1)
    np.testing.assert_allclose(again.rate_LF, SCALE * PER_S_LF, rtol=1e-9)
    np.testing.assert_allclose(after(load, [START_S + 3], steady).rate_LF, SCALE * PER_S_LF, rtol=1e-9)


def test_an_expert_that_was_dropped_starts_anew() -> None:
    some_LF = ALL_LF.copy()
    some_LF[1, 0] = False
    load = new_load()
    after(load, [START_S + 100], steady)
    without = after(load, [START_S + 100.5], steady, some_LF)
    assert without.rate_LF[1, 0] == 0
    assert (without.loaded_LF == some_LF).all()
    assert without.assignments_per_s == pytest.approx(SCALE * PER_S_LF.sum()), "what it computed is not undone"
    calm = steady(START_S + 100.5)
    again = load.update(calm, ALL_LF, 0.0, START_S + 101)
    assert again.rate_LF[1, 0] == 0
    few = calm.copy()
    few[1, 0] += 50
    again = load.update(few, ALL_LF, 0.0, START_S + 101.5)
    assert again.rate_LF[1, 0] == pytest.approx(50, rel=0.01), "one second, with what came in it"
    assert again.rate_LF[1, 2] == pytest.approx(SCALE * PER_S_LF[1, 2], rel=0.05), "the others have a minute"


def test_the_window_tells_how_much_rates_vary_by_chance() -> None:
    random, age_s, per_s = np.random.default_rng(0), 45, 20.0
    load, found = ExpertLoad(1, 4000, 0.0), None
    counts_LF = np.zeros((1, 4000), np.int64)
    for now_s in range(1, age_s + 1):
        counts_LF = counts_LF + random.poisson(per_s, counts_LF.shape)
        found = load.update(counts_LF, np.ones(counts_LF.shape, np.bool_), 0.0, float(now_s))
    assert found is not None
    assert found.rate_LF.mean() == pytest.approx(per_s, rel=0.01), "without bias"
    assert found.rate_LF.var() == pytest.approx(per_s / found.window_s, rel=0.1)
    young, old = (after(new_load(), [START_S + age], steady).window_s for age in (1.0, 10_000.0))
    assert young == pytest.approx(1, rel=1e-3)
    assert old == pytest.approx(2 * TAU_S)
    assert after(new_load(), [START_S + 5], steady, ~ALL_LF).window_s == 0


def test_the_load_comes_through_its_message() -> None:
    some_LF = np.array([[False, False, False], [True, False, True]])
    load = after(new_load(), [START_S + 3, START_S + 4.5], steady, some_LF, busy=0.125)
    reply = pack_load(load)
    assert [(each.layer, each.experts, len(each.rates)) for each in reply.layers] == [(1, b"\0\0\2\0", 8)]
    found = unpack_load(LoadReply.FromString(reply.SerializeToString()), LAYERS, EXPERTS)
    assert (found.loaded_LF == some_LF).all()
    assert (found.rate_LF == load.rate_LF.astype(np.float32)).all()
    assert found.busy == 0.125
    assert found.window_s == pytest.approx(load.window_s)
    assert found.assignments_per_s == pytest.approx(load.assignments_per_s)


def test_a_message_takes_six_bytes_an_expert() -> None:
    rates_LF = np.random.default_rng(0).random((28, 512))
    reply = pack_load(WorkerLoad(np.ones((28, 512), np.bool_), rates_LF, 60.0, 0.5, 1e4))
    assert reply.ByteSize() < 6.1 * rates_LF.size


def layer(layer: int = 0, experts: Iterable[int] = (0, 2), rates: Iterable[float] = (1.0, 2.0)) -> LayerLoad:
    return LayerLoad(
        layer=layer, experts=np.array([*experts], "<u2").tobytes(), rates=np.array([*rates], "<f4").tobytes()
    )


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (LoadReply(layers=[LayerLoad(experts=b"\0\0\1")]), "layer 0 has 3 bytes of experts and 0 of rates"),
        (LoadReply(layers=[layer(rates=[1.0])]), "layer 0 has 4 bytes of experts and 4 of rates"),
        (LoadReply(layers=[layer(rates=[1.0, 2.0, 3.0])]), "layer 0 has 4 bytes of experts and 12 of rates"),
        (LoadReply(layers=[LayerLoad(rates=bytes(4))]), "layer 0 has 0 bytes of experts and 4 of rates"),
        (LoadReply(layers=[layer(experts=[0, 3])]), "expert 3 of layer 0, of a model with 3"),
        (LoadReply(layers=[layer(experts=[0, 65535])]), "expert 65535 of layer 0"),
        (LoadReply(layers=[layer(experts=[2, 0])]), "the experts of layer 0 do not ascend"),
        (LoadReply(layers=[layer(experts=[2, 2])]), "the experts of layer 0 do not ascend"),
        (LoadReply(layers=[layer(2)]), "layer 2 of a model with 2"),
        (LoadReply(layers=[layer(2**32 - 1)]), "layer 4294967295 of a model with 2"),
        (LoadReply(layers=[layer(1), layer(0)]), "layer 0 after layer 1"),
        (LoadReply(layers=[layer(1), layer(1)]), "layer 1 after layer 1"),
        (LoadReply(layers=[layer(rates=[1.0, float("nan")])]), "a rate of layer 0 is negative or not finite"),
        (LoadReply(layers=[layer(rates=[float("inf"), 1.0])]), "a rate of layer 0 is negative or not finite"),
        (LoadReply(layers=[layer(rates=[1.0, -0.5])]), "a rate of layer 0 is negative or not finite"),
        (LoadReply(window_s=-1), "window_s is -1.0"),
        (LoadReply(busy=float("nan")), "busy is nan"),
        (LoadReply(assignments_per_s=float("inf")), "assignments_per_s is inf"),
    ],
)
def test_a_message_that_cannot_be_is_rejected(reply: LoadReply, message: str) -> None:
    unpack_load(LoadReply(layers=[layer(0), layer(1)]), LAYERS, EXPERTS)
    with pytest.raises(LoadError, match=message):
        unpack_load(reply, LAYERS, EXPERTS)


def test_random_bytes_are_unpacked_or_rejected() -> None:
    random = np.random.default_rng(1)
    message = bytearray(pack_load(after(new_load(), [START_S + 2], steady)).SerializeToString())
    rejected = 0
    for _ in range(3000):
        mutated = bytearray(message)
        mutated[random.integers(len(mutated))] = random.integers(256)
        try:
            reply = LoadReply.FromString(bytes(mutated))
        except DecodeError:
            continue
        try:
            load = unpack_load(reply, LAYERS, EXPERTS)
        except LoadError:
            rejected += 1
            continue
        assert np.isfinite(load.rate_LF).all()
        assert not load.rate_LF[~load.loaded_LF].any()
    assert rejected > 100
