"""Rolling upgrades: what there is time for, one pod after the other."""

from __future__ import annotations

from support.small_simulation import scenario

from bench.studies.large import UPGRADES, hour
from services.attention_worker.migration.limits import HANDOVER_S
from services.planner.traffic import Slo
from services.simulator.faults import Fault
from services.simulator.simulation import play

SLO = Slo(ttft_s=5.0, itl_s=0.5)


def test_the_hours_upgrades_end_within_it_and_one_more_pod_would_not() -> None:
    seconds = 3600.0
    played = hour(seconds, 50.0)
    shaped, timing = played.deployment, played.deployment.timing
    each_s = {
        "attention upgrade": timing.pod_s + timing.attention_load_s + timing.drain_s + HANDOVER_S,
        "expert upgrade": timing.pod_s + timing.drain_s + HANDOVER_S,
    }
    pods = {"attention upgrade": shaped.attention, "expert upgrade": shaped.experts}
    upgrades = [fault for fault in played.faults if fault.kind in each_s]
    assert {fault.kind for fault in upgrades} == set(each_s)
    for fault in upgrades:
        count = pods[fault.kind] - fault.partition
        assert count > 10
        assert fault.at + count * each_s[fault.kind] <= seconds < fault.at + (count + 1) * each_s[fault.kind]
        assert fault.at + pods[fault.kind] * each_s[fault.kind] > seconds, "a whole role would fit: begin no partition"
    assert UPGRADES * 60 == 36  # docs/simulator.md says when


def test_pods_below_the_partition_stay_as_they_are() -> None:
    played = play(scenario(5.0, 40.0, faults=[Fault(at=5.0, kind="attention upgrade", partition=2)]), 1)
    assert played.upgraded == 1
    assert play(scenario(5.0, 40.0, faults=[Fault(at=5.0, kind="expert upgrade", partition=1)]), 1).upgraded == 3
    assert set(played.summary(SLO).ends) == {"finished"}
