"""Recorded answers of the built-in model beside the training model, and beside a forward pass of the same class."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from caracal_proto import attention_pb2
from support.engine_driver import Driver, limits
from support.paged import Paged, local_dispatcher
from tokenizers import Tokenizer

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.recording.lines import Header, Recorded, Scored, header_line, request_line
from training.rollouts import Rollout, read

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "models" / "caracal-tiny"
ASKED = ["[Round 0] USER:What is 12 + 30? ASSISTANT:", "[Round 0] USER:Count from 3 to 9. ASSISTANT:"]


def record(model: Model, dispatcher: MoEDispatcher, log: Path) -> None:
    """Writes answers as a router does: sampled, with log-probabilities."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    driver = Driver(model, dispatcher, limits(), frozenset({2}))
    lines = [header_line(Header(model="m", directory=str(MODEL), numerics_class="c", numerics={}))]
    prompts = [tokenizer.encode(text).ids for text in ASKED]
    sampling = Sampling(max_tokens=24, logprobs=True, temperature=1.3, seed=7)
    answers = [driver.submit(prompt, sampling) for prompt in prompts]
    driver.finish()
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        recorded = Recorded(
            request_id=str(number),
            prompt_ids=prompt,
            sampling=attention_pb2.Sampling(logprobs=True),
            ids=answer.ids,
            checksums=[token.logits_checksum for token in answer.tokens],
            logprobs=[Scored(token.logprob) for token in answer.tokens],
            ending="stop",
            numerics_class="c",
        )
        lines.append(request_line(recorded))
    log.write_bytes(b"".join(lines))


@torch.inference_mode()
def scored_here(model: Model, dispatcher: MoEDispatcher, rollout: Rollout) -> list[float]:
    """Log-probabilities of a whole sequence in one forward pass of this process."""
    ids = rollout.prompt_ids + rollout.ids
    logits_TV = Paged(model, dispatcher, capacity=len(ids)).feed({0: ids})[0]
    scored_TV = torch.log_softmax(logits_TV, -1)
    places = range(len(rollout.prompt_ids) - 1, len(ids) - 1)
    return [float(scored_TV[place, ids[place + 1]]) for place in places]


def test_a_forward_pass_of_the_same_class_gives_the_same_bits_and_training_others(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(MODEL)
    model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
    log = tmp_path / "record.jsonl"
    with local_dispatcher(checkpoint, torch.bfloat16) as dispatcher:
        record(model, dispatcher, log)
        rollouts = list(read(log))
        assert [scored_here(model, dispatcher, one) for one in rollouts] == [one.logprobs for one in rollouts]
    command = [sys.executable, "-m", "training.rollouts", str(log)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    tokens = sum(len(one.ids) for one in rollouts)
    found = re.fullmatch(
        rf"{tokens} tokens: .* mean (\S+), largest (\S+); (\d+) are equal; KL per token (\S+)\n", done.stdout
    )
    assert found, done.stdout
    assert 0 < float(found[1]) < 0.02
    assert 0 < float(found[2]) < 0.2
    assert int(found[3]) < tokens


def test_a_record_without_log_probabilities_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "record.jsonl"
    log.write_text('{"request_id": "r", "prompt_ids": [1], "ids": [2]}\n')
    command = [sys.executable, "-m", "training.rollouts", str(log)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no answer has logprobs" in done.stderr
    log.write_text('{"logprobs": [[0]], "ids": [2]}\n')
    with pytest.raises(ValueError, match="line 1: KeyError: 'prompt_ids'"):
        list(read(log))
