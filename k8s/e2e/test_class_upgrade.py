"""Upgrades that change the numerics class, and their rollback, under streams: kernels and dtype, no request is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster
from k8s.e2e.records import Answer
from k8s.e2e.streams import Streams
from k8s.e2e.targets import Target

TWO = {f"{role}__initialReplicas": 2 for role in ("router", "attention", "expert")}
COUNTS = {"router": 2, "attention": 2, "expert": 2}
# What another image's kernels would be: the same pods with others of this image's.
KERNELS = {"pod__env[0]__name": "CARACAL_KERNELS", "pod__env[0]__value": "reference"}


@pytest.fixture(scope="module")
def release(target: Target) -> Iterator[Cluster]:
    release = Cluster(target, "caracal-classes")
    release.create_namespace()
    release.install("install", **TWO)
    release.wait_for_pods(**COUNTS)
    yield release
    release.helm("uninstall", release.release)
    release.kubectl("delete", "namespace", release.namespace, "--wait=false")


def _answers(release: Cluster, name: str, rounds: int = 1) -> dict[str, str]:
    """The digest of each caller's answer while nothing changes."""
    streams = Streams(release)
    streams.begin(name, rounds)
    return {answer.caller: answer.digest for answer in _without_failures(streams.finish())}


def _without_failures(answers: list[Answer]) -> list[Answer]:
    failed = [f"{answer.caller}: {answer.error}" for answer in answers if answer.error]
    assert not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:5]}"
    return answers


def _during(release: Cluster, name: str, *command: str, **values: object) -> list[Answer]:
    streams = Streams(release)
    streams.begin(name)
    if command:
        release.helm(*command)
    else:
        release.install("upgrade", **(TWO | values))
    release.wait_for_rollouts()
    release.wait_for_pods(**COUNTS)
    streams.wait_for_answers(1)
    return _without_failures(streams.end())


@pytest.mark.parametrize("values", [KERNELS, {"model__dtype": "float32"}], ids=["kernels", "dtype"])
def test_an_upgrade_of_the_class_and_its_rollback(release: Cluster, values: dict[str, object]) -> None:
    name = "kernels" if values is KERNELS else "dtype"
    old = _answers(release, f"old-{name}")
    forth = _during(release, f"upgrade-{name}", **values)
    new = _answers(release, f"new-{name}")
    assert old != new, "the class has changed"
    back = _during(release, f"rollback-{name}", "rollback", release.release)
    assert _answers(release, f"again-{name}") == old
    mixed = [one.caller for one in (*forth, *back) if one.digest not in (old[one.caller], new[one.caller])]
    assert not mixed, f"{len(mixed)} answers have the bits of neither class: {mixed[:5]}"
