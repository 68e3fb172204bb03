"""No attention and no expert pod, and back, while requests wait."""

from __future__ import annotations

import time

from k8s.e2e.cluster import temporary
from k8s.e2e.conftest import Disturb
from k8s.e2e.records import Stalls
from k8s.e2e.report import Report
from k8s.e2e.streams import Streams
from k8s.e2e.targets import Target

EVENT = "scaled to zero and back"
# Experts wait so long for somebody to take them; the client gives up after 90 s.
VALUES = {"router__coldStartSeconds": 300, "expert__drain__timeoutSeconds": 10}


def test_requests_wait_for_the_first_pod(target: Target, disturbed: Disturb, report: Report) -> None:
    """Answers that had begun go on bit for bit, new ones wait; how long the first token took is in the report."""
    times: dict[str, float] = {}
    with temporary(target, "caracal-zero") as zero:
        zero.install("install", **VALUES)
        zero.wait_for_pods(router=1, attention=1, expert=1)

        def there_and_back(streams: Streams) -> None:
            zero.caracal("scale", "expert=0", "attention=0")
            router = zero.pods("router")[0]["metadata"]["name"]
            assert '"cold"' in zero.ask(router, ":8000/ready")
            times["asked"] = time.time()
            zero.kubectl("scale", f"statefulset/{zero.release}-expert", "--replicas=1")
            zero.kubectl("scale", f"statefulset/{zero.release}-attention", "--replicas=1")
            zero.wait_for_pods(attention=1, expert=1)
            streams.wait_for_answers(1)

        answers = disturbed(EVENT, there_and_back, to=zero)
    arrivals = (answer.started + ms / 1000 for answer in answers for ms in answer.token_times)
    first_s = min(arrival for arrival in arrivals if arrival > times["asked"]) - times["asked"]
    report.add(EVENT, Stalls.of(answers), f"first token {first_s:.1f} s after the scale-up")
