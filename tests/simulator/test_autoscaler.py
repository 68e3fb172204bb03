"""The HorizontalPodAutoscaler's algorithm, by the examples of its documentation and the chart's limits."""

from __future__ import annotations

from itertools import pairwise

from services.simulator.autoscaler import HorizontalPodAutoscaler, Scaling


def scaler(**changes: float) -> HorizontalPodAutoscaler:
    return HorizontalPodAutoscaler(Scaling(**{"least": 1, "most": 100, "target": 100.0} | changes))  # type: ignore[arg-type]


def test_the_number_of_pods_follows_the_ratio() -> None:
    assert scaler().sync(0.0, 2, [200.0] * 2) == 4
    assert scaler(stabilization_s=0.0, down_pods=10).sync(0.0, 4, [50.0] * 4) == 2
    assert scaler().sync(0.0, 4, [108.0] * 4) == 4  # within the tolerance
    assert scaler().sync(0.0, 3, [150.0] * 3) == 5
    assert scaler().sync(0.0, 3, []) == 3  # no metric, no change


def test_scaling_up_at_most_doubles_or_adds_four_in_a_quarter_of_a_minute() -> None:
    autoscaler = scaler()
    assert autoscaler.sync(0.0, 1, [5000.0]) == 5
    assert autoscaler.sync(5.0, 5, [5000.0] * 5) == 5
    assert autoscaler.sync(15.0, 5, [5000.0] * 5) == 10
    assert scaler(most=7).sync(0.0, 5, [5000.0] * 5) == 7


def test_pods_that_start_count_as_idle_when_scaling_up() -> None:
    assert scaler().sync(0.0, 4, [200.0, 200.0], starting=2) == 4
    assert scaler().sync(0.0, 4, [600.0, 600.0], starting=2) == 8


def test_scaling_down_waits_for_the_window_and_takes_one_pod_a_minute() -> None:
    autoscaler, pods, taken = scaler(stabilization_s=300.0), 10, []
    autoscaler.sync(0.0, 10, [100.0] * 10)
    for tick in range(1, 40):
        wanted = autoscaler.sync(15.0 * tick, pods, [10.0] * pods)
        if wanted < pods:
            taken.append(15.0 * tick)
            assert wanted == pods - 1
        pods = wanted
    assert taken[0] > 300.0
    assert all(later - earlier >= 60.0 for earlier, later in pairwise(taken))
    assert scaler(least=4, stabilization_s=0.0, down_pods=10).sync(0.0, 5, [1.0] * 5) == 4


def test_requests_that_wait_are_a_second_metric_and_the_higher_number_counts() -> None:
    by_queue = scaler(queue_target=8.0)
    assert by_queue.sync(0.0, 2, [50.0] * 2, queued=31) == 4
    assert scaler(queue_target=8.0).sync(0.0, 2, [400.0] * 2, queued=8) == 6  # 8 by the metric, 4 more at a time
    assert scaler(queue_target=8.0).sync(0.0, 2, [100.0] * 2, queued=17) == 2  # within the tolerance
    assert scaler().sync(0.0, 2, [100.0] * 2, queued=1000) == 2
