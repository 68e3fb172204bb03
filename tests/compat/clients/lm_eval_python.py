"""lm-eval, the Python package: tasks of local files, as no hub can be reached."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
from compat import features as f
from compat.features import Servers
from lm_eval.tasks import TaskManager

GENERATE = """
output_type: generate_until
generation_kwargs: {until: ["\\n"], max_gen_toks: 20, temperature: 0}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
SCORE = """
output_type: loglikelihood
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""


def samples(servers: Servers, model: str, path: str, questions: list[tuple[str, str]], kind: str) -> list[Any]:
    """Returns the answers that a task of these questions and answers got, in their order."""
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        data.write_text("".join(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in questions))
        head = f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: train\n"
        texts = 'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\ntarget_delimiter: ""\n'
        (Path(folder) / "sums.yaml").write_text(head + texts + kind)
        found = lm_eval.simple_evaluate(
            model=model,
            model_args={"model": servers.model, "base_url": servers.v1 + path, "tokenizer": servers.model_path},
            tasks=["sums"],
            task_manager=TaskManager(include_path=folder),
            apply_chat_template=model == "local-chat-completions",
            bootstrap_iters=0,
        )
    ordered = sorted(found["samples"]["sums"], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in ordered]


def chat(servers: Servers) -> None:
    (answer,) = samples(servers, "local-chat-completions", "/chat/completions", [(f.QUESTION, f.ANSWER)], GENERATE)
    assert f.ANSWER in answer


def completions(servers: Servers) -> None:
    questions = [(f.COMPLETION_PROMPT, f.ANSWER)]
    (answer,) = samples(servers, "local-completions", "/completions", questions, GENERATE)
    assert f.ANSWER in answer


def logprobs(servers: Servers) -> None:
    """Sums of log-probabilities, compared with those of transformers' model with the same weights."""
    received = samples(servers, "local-completions", "/completions", f.SCORED, SCORE)
    differences = [abs(ours[0] - theirs) for ours, theirs in zip(received, servers.scores, strict=True)]
    print("largest difference of a log-likelihood from transformers':", max(differences))
    assert max(differences) < 1e-3, differences
    assert [ours[1] for ours in received] == [True, False]
