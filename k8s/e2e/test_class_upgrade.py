"""Upgrades that change the numerics class, and their rollback, under streams: another image, or another dtype."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from k8s.e2e.cluster import Cluster, temporary
from k8s.e2e.helm_versions import helm_program
from k8s.e2e.records import Answer, Stalls
from k8s.e2e.report import Report
from k8s.e2e.streams import Streams
from k8s.e2e.targets import Target

TWO: dict[str, object] = {f"{role}__initialReplicas": 2 for role in ("router", "attention", "expert")}
COUNTS = {"router": 2, "attention": 2, "expert": 2}
CLOCKS_S = 3.0
REPLACED = "an upgrade has replaced the workers it began on. Send it again."
LONG = 3000  # tokens: longer than a worker that is replaced may take


@pytest.fixture(scope="module")
def release(target: Target, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yields a release by the Helm of that version, two pods of each role."""
    version = request.param
    with temporary(target, f"caracal-classes-{version}", helm_program(version)) as release:
        release.install("install", **TWO)
        release.wait_for_pods(**COUNTS)
        yield release


def _image(target: Target, *, with_redis: bool) -> dict[str, object]:
    """Values of the other image, whose kernels are others; Redis keeps its pod, or gets that image as well."""
    if not target.other_tag:
        pytest.skip("no second image: name the tag of one with other kernels in CARACAL_E2E_OTHER_TAG")
    values: dict[str, object] = {"image__tag": target.other_tag}
    return values if with_redis else values | {"redis__image__tag": target.image.rpartition(":")[2]}


def _values(target: Target, what: str) -> dict[str, object]:
    if what == "dtype":
        return {"model__dtype": "float32"}
    return _image(target, with_redis=what == "image and Redis")


def _answers(release: Cluster, name: str) -> dict[str, str]:
    """The digest of each caller's answer while nothing changes."""
    streams = Streams(release)
    streams.begin(name, 1)
    answers = streams.finish()
    _none_failed(answers)
    return {answer.caller: answer.digest for answer in answers}


def _none_failed(answers: list[Answer]) -> None:
    failed = [f"{answer.caller}: {answer.error}" for answer in answers if answer.error]
    assert not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:5]}"


def _redis_pod(release: Cluster) -> str:
    (pod,) = release.pods("redis")
    return str(pod["metadata"]["uid"])


def _during(release: Cluster, report: Report, event: str, **upgrade: object) -> tuple[list[Answer], float]:
    """Upgrades with these values, or rolls back without any, under streams. Returns their answers, and the time since
    which only the new class is there."""
    streams = Streams(release)
    streams.begin(event.lower().replace(" ", "-"))
    if upgrade:
        release.install("upgrade", **(TWO | upgrade))
    else:
        release.helm("rollback", release.release)
    release.wait_for_rollouts()
    release.wait_for_pods(**COUNTS, redis=1)
    since = time.time() + CLOCKS_S
    streams.wait_for_answers(2)
    answers = streams.end()
    report.add(event, Stalls.of(answers))
    _none_failed(answers)
    assert any(answer.started > since for answer in answers)
    return answers, since


@pytest.mark.parametrize(
    ("release", "what"), [(4, "image"), (4, "image and Redis"), (3, "dtype")], indirect=["release"]
)
def test_an_upgrade_of_the_class_and_its_rollback(release: Cluster, report: Report, what: str) -> None:
    """No request is lost, each answer has the bits of one class, and new requests get the new class."""
    values, name = _values(release.target, what), what.lower().replace(" ", "-")
    old, redis = _answers(release, f"old-{name}"), _redis_pod(release)
    there = _during(release, report, f"upgrade of the {what}", **values)
    new = _answers(release, f"new-{name}")
    assert old != new, "the class has changed"
    assert (_redis_pod(release) == redis) == (what != "image and Redis")
    back = _during(release, report, f"rollback of the {what}")
    assert _answers(release, f"again-{name}") == old
    for (answers, since), last in ((there, new), (back, old)):
        mixed = [one.caller for one in answers if one.digest not in (old[one.caller], new[one.caller])]
        assert not mixed, f"{len(mixed)} answers have the bits of neither class: {mixed[:5]}"
        late = [one.caller for one in answers if one.started > since and one.digest != last[one.caller]]
        assert not late, f"{len(late)} new requests got the class that was replaced: {late[:5]}"


@pytest.mark.parametrize("release", [4], indirect=True)
def test_an_answer_that_outlasts_its_class_can_be_sent_again(release: Cluster, report: Report) -> None:
    """The only attention worker has five seconds for answers that take longer: they end with an error that is worth
    retrying, none hangs, and requests after it are served by the new class."""
    small = TWO | {"attention__drain__timeoutSeconds": 5}
    release.install("upgrade", **small)
    release.wait_for_rollouts()
    release.scale("attention", 1)
    streams = Streams(release, tokens=LONG)
    streams.begin("outlasting")
    release.install("upgrade", **(small | {"model__dtype": "float32"}))  # as fast as the other one
    release.wait_for_rollouts()
    streams.wait_for_answers(1)
    answers = streams.end()
    report.add("upgrade of the dtype, with one attention pod and long answers", Stalls.of(answers))
    failed = [answer for answer in answers if answer.error]
    assert failed, "no answer was longer than the time that its worker had"
    assert {answer.error for answer in failed if REPLACED not in answer.error} == set()
    ended = max(answer.started for answer in failed)
    after = [answer for answer in answers if answer.started > ended]
    assert {answer.caller for answer in after} == {answer.caller for answer in answers}, "every caller goes on"
