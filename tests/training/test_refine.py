"""Roll-outs: what is kept of them, and training on them; through a cluster the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.agentic.casting import Cast
from training.agentic.demonstrations import program_task, solution
from training.agentic.difficulty import Difficulty
from training.agentic.endpoint import Endpoint
from training.agentic.refine import Refine
from training.agentic.sampling import accepted, counts, line_of, sample_tasks
from training.agentic.serving import serving
from training.data.corpus import Mixture, Source
from training.data.words.vocabulary import SEEN
from training.export.read import load_exported
from training.recipe import AgenticRecipe

MODEL = Path(__file__).parents[2] / "models" / "caracal-tiny"
SHORT = Source(Mixture.of({"arithmetic": 1}))
RECIPE = AgenticRecipe(tasks=3, samples=2, steps=2, batch_dialogues=2, groups=2, warmup=1, reply_tokens=48)


def write_rollouts(file: Path) -> None:
    """Solved tasks, one of them twice; one that failed; one that was solved and then cut."""
    lines = [line_of(solution(program_task(f"t{n}", Difficulty(information=n), SEEN)), 0) for n in (0, 1, 1, 2, 3)]
    lines[3] |= {"success": False}
    lines[4] |= {"ending": "too long"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_only_different_successes_are_learned(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "rollouts.jsonl")
    assert counts(tmp_path / "rollouts.jsonl") == {"rollouts": 5, "successes": 4, "learned": 2}
    one, _ = accepted(tmp_path / "rollouts.jsonl")
    assert [answer.category for answer in one.answers] == ["agent call", "agent reply"]


def test_a_stage_on_rollouts_resumes_with_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    file = tmp_path / "rollouts.jsonl"
    write_rollouts(file)
    whole = Refine(tmp_path / "whole", MODEL, file, SHORT, 1, RECIPE)
    reports = [whole.advance(), whole.advance()]
    first = Refine(tmp_path / "halves", MODEL, file, SHORT, 1, RECIPE)
    first.advance()
    first.save()
    second = Refine(tmp_path / "halves", MODEL, file, SHORT, 1, RECIPE, threads=2)
    assert second.advance().loss == reports[1].loss
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    second.publish(tmp_path / "model")
    trained, before = load_exported(tmp_path / "model")[0], load_exported(MODEL)[0]
    assert not torch.equal(trained.lm_head.weight, before.lm_head.weight)
    with pytest.raises(ValueError, match=r"recipe\.json"):
        Refine(tmp_path / "whole", MODEL, file, SHORT, 2, RECIPE)
    file.write_text("")
    with pytest.raises(ValueError, match="no roll-out succeeded"):
        Refine(tmp_path / "none", MODEL, file, SHORT, 1, RECIPE)


@pytest.mark.processes
def test_rollouts_through_a_cluster_are_the_same_bytes(tmp_path: Path) -> None:
    """Alone, sixteen at once, and resumed behind a line that was cut."""
    alone, together, resumed = (tmp_path / name for name in ("alone", "together", "resumed"))
    with serving(MODEL) as url:
        endpoint = Endpoint.open(url)
        sample_tasks(endpoint, Cast(), "test", RECIPE, alone, parallel=1)
        sample_tasks(endpoint, Cast(), "test", RECIPE, together, parallel=16)
        resumed.write_bytes(alone.read_bytes()[: alone.stat().st_size // 2])
        sample_tasks(endpoint, Cast(), "test", RECIPE, resumed, parallel=4)
    lines = [json.loads(line) for line in alone.read_text().splitlines()]
    assert [(line["task"], line["sample"]) for line in lines] == [(f"test {n}", s) for n in range(3) for s in range(2)]
    assert all(len(line["messages"]) > 1 for line in lines), "the model answered"
    assert len({json.dumps(line["messages"]) for line in lines}) > 3, "samples differ"
    assert together.read_bytes() == alone.read_bytes()
    assert resumed.read_bytes() == alone.read_bytes()
