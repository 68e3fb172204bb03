"""Every value changes what is rendered, or is rejected: one that nothing reads would be relied on all the same."""

from __future__ import annotations

import pytest
from support.chart_objects import Chart, Object
from support.other_values import BESIDE, BESIDE_IN_A_ROLE, another, beside, of_others, of_pod

from k8s.tools.constraints import UNREAD
from k8s.tools.helm import HelmRejected
from k8s.tools.values import ROLES, Entry

pytestmark = pytest.mark.processes

KEY = "clusterKey.existingSecret=key"  # without it the release draws one, and no two renders are alike
# A description of the GPUs that a pod requests. Only the capacity check of expert pods reads it.
DESCRIBES = ("pod.accelerator.memoryGiB", "pod.accelerator.usablePercent")
SHADOWED = ("pod.resources",)  # every role has requests and limits of its own in values.yaml


def _render(chart: Chart, *sets: str) -> list[Object]:
    return chart.render(KEY, *(one for one in sets if one))


def test_what_is_rendered_is_the_same_each_time(chart: Chart) -> None:
    assert _render(chart) == _render(chart, "logLevel=")


@pytest.mark.parametrize("entry", of_others(), ids=lambda entry: entry.name)
def test_a_value_changes_what_is_rendered(chart: Chart, entry: Entry) -> None:
    where = beside(entry.name, BESIDE)
    assert _render(chart, where) != _render(chart, where, another(entry))


@pytest.mark.parametrize("entry", of_pod(), ids=lambda entry: entry.name)
def test_a_value_of_all_pods_changes_each_role_that_may_have_it(chart: Chart, entry: Entry) -> None:
    where = beside(entry.name, BESIDE_IN_A_ROLE)
    roles = [role for role in ROLES if entry.path[1] not in UNREAD.get(role, ())]
    roles = ["expert"] if entry.name in DESCRIBES else roles
    own = {role: ".".join((role, *entry.path[1:])) for role in roles}
    context = [where.replace("ROLE", role) for role in roles]
    before = _render(chart, *context)
    after = _render(chart, *context, *(another(entry, name) for name in own.values()))
    unchanged = [role for role in roles if _of(before, role) == _of(after, role)]
    assert not unchanged, f"{entry.name} is not read by {unchanged}"
    if entry.name not in (*DESCRIBES, *SHADOWED):
        for_all = where.replace("ROLE", "pod")
        assert _render(chart, for_all) != _render(chart, for_all, another(entry))


def _of(objects: list[Object], role: str) -> list[Object]:
    """The objects of a role: its workload, Service, budget, autoscaler and policies."""
    return [item for item in objects if item["metadata"]["name"].removeprefix("caracal-").startswith(role)] + [
        item for item in objects if item["metadata"]["name"].endswith(f"{role}-scale-guard")
    ]


@pytest.mark.parametrize(("role", "key"), [(role, key) for role, keys in UNREAD.items() for key in sorted(keys)])
def test_a_value_that_a_role_does_not_read_is_rejected(chart: Chart, role: str, key: str) -> None:
    entry = next(one for one in of_pod() if one.path[1] == key)
    with pytest.raises(HelmRejected, match=r"additional propert.* not allowed"):
        chart.render(another(entry, ".".join((role, *entry.path[1:]))))
