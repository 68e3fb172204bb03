"""Traffic by statistics and by records."""

from __future__ import annotations

import numpy as np
import pytest
from caracal_proto import attention_pb2

from services.router.recording.lines import BadLine, Recorded, request_line
from services.simulator.recorded import replay_of
from services.simulator.traffic import KINDS, Arrivals, Phase


@pytest.mark.parametrize("name", sorted(KINDS))
def test_lengths_have_the_published_means_and_medians(name: str) -> None:
    kind, rng = KINDS[name], np.random.default_rng(0)
    for lengths in (kind.prompt, kind.answer):
        drawn = lengths.draw(rng, 100_000)
        assert np.mean(drawn) == pytest.approx(lengths.mean, rel=0.08)  # a little is cut off
        assert np.median(drawn) == pytest.approx(lengths.median, rel=0.05)
        assert 1 <= drawn.min() <= drawn.max() <= lengths.most


def test_arrivals_follow_their_phases_and_their_seed() -> None:
    arrivals = Arrivals(phases=[Phase(0.0, 50.0), Phase(100.0, 0.0), Phase(200.0, 200.0)], seconds=300.0,
                        kind=KINDS["code"])  # fmt: skip
    times = [generation.arrived for generation in arrivals.generate(1)]
    counts, _ = np.histogram(times, [0, 100, 200, 300])
    assert counts.tolist() == pytest.approx([5000, 0, 20_000], rel=0.05)
    assert times == [generation.arrived for generation in arrivals.generate(1)] == sorted(times)
    assert times != [generation.arrived for generation in arrivals.generate(2)]


def recorded(started: float, prompt: int, answer: int) -> bytes:
    return request_line(
        Recorded(
            request_id=f"request-{started}",
            prompt_ids=[1] * prompt,
            sampling=attention_pb2.Sampling(max_tokens=answer or 1),
            ids=[2] * answer,
            checksums=[3] * answer,
            ending="length" if answer else "error",
            error="" if answer else "overloaded",
            finish_reason="length" if answer else "",
            started=started,
            numerics_class="one" if answer else "",
        )
    )


def test_a_record_is_played_as_it_came() -> None:
    replay = replay_of([recorded(1000.5, 7, 3), recorded(1000.0, 5, 2), recorded(1001.0, 9, 0)])
    found = [(g.arrived, g.prompt, g.answer) for g in replay.generate(0)]
    assert found == [(0.0, 5, 2), (0.5, 7, 3)]


def test_a_bad_record_names_its_line() -> None:
    with pytest.raises(BadLine, match=r"^line 2: "):
        replay_of([recorded(1.0, 7, 3), b"{"])
    with pytest.raises(BadLine, match="no request"):
        replay_of([recorded(1.0, 7, 0)])
