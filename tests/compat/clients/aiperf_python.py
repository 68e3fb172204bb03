"""aiperf, the load generator: its command as docs/load-tools.md has it, and what its JSON says of every request."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compat import features as f
from compat.features import Servers
from compat.load_tools import OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, STREAMS, TOO_MANY_TOKENS, PromptTokens, run

SYNTHETIC = ("--synthetic-input-tokens-mean", str(PROMPT_TOKENS), "--output-tokens-mean", str(OUTPUT_TOKENS))
EXACT = (*SYNTHETIC, "--extra-inputs", "ignore_eos:true")


def records(
    servers: Servers, kind: str, *more: str, model: str = "", url: str = "", fails: bool = False
) -> list[dict[str, Any]]:
    """Returns a run's records: of each request its metrics, and `sent`, `text` or `error`."""
    with TemporaryDirectory() as folder:
        run(
            "aiperf", "profile", "-m", model or servers.model, "--url", url or servers.url, "--endpoint-type", kind,
            "--tokenizer", servers.model_path, "--concurrency", str(STREAMS), "--request-count", str(REQUESTS),
            "--use-server-token-count", "--export-outputs-json", "--artifact-dir", folder, "--ui", "none", *more,
            status=int(fails),
        )  # fmt: skip
        lines = (Path(folder) / "profile_export.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        if fails:
            return found
        inputs = json.loads((Path(folder) / "inputs.json").read_text())["data"]
        outputs = json.loads((Path(folder) / "outputs.json").read_text())["data"]
        summary = json.loads((Path(folder) / "profile_export_aiperf.json").read_text())
    sent = {one["session_id"]: one["payloads"][0] for one in inputs}
    texts = {one["x_request_id"]: one["response_text"] for one in outputs}
    for one in found:
        one["sent"] = sent[one["metadata"]["conversation_id"]]
        one["text"] = texts[one["metadata"]["x_request_id"]]
    assert len(found) == summary["request_count"]["avg"] == REQUESTS
    assert (summary["request_error_rate"]["avg"], summary["error_summary"]) == (0, [])
    return found


def value(record: dict[str, Any], metric: str) -> Any:
    return record["metrics"][metric]["value"]


def check_counts(servers: Servers, kind: str, *more: str) -> None:
    """All requests succeed, and have as many tokens as asked for and as transformers counts in what was sent."""
    tokens = PromptTokens(servers)
    found = records(servers, kind, *EXACT, *more)
    for one in found:
        assert value(one, "usage_completion_tokens") == OUTPUT_TOKENS
        assert value(one, "usage_prompt_tokens") == tokens.of(one["sent"]) >= PROMPT_TOKENS
    if "--streaming" in more:  # the network joins what a busy client leaves, so single requests may have one piece
        assert sum(value(one, "http_req_chunks_received") for one in found) > 2 * REQUESTS


def check_answers(servers: Servers, kind: str, *more: str) -> None:
    """Each of features.py's questions is answered, and its prompt has as many tokens as transformers counts."""
    with TemporaryDirectory() as folder:
        found = records(servers, kind, *questions(folder), *more)
    for one in found:
        assert f.ANSWER in one["text"]
        assert value(one, "usage_prompt_tokens") == PromptTokens(servers).of(one["sent"])


def questions(folder: str) -> tuple[str, ...]:
    data = Path(folder) / "questions.jsonl"
    data.write_text((json.dumps({"text": f.QUESTION}) + "\n") * REQUESTS)
    return "--input-file", str(data), "--custom-dataset-type", "single_turn", "--extra-inputs", "temperature:0"


def chat(servers: Servers) -> None:
    check_answers(servers, "chat")


def streaming(servers: Servers) -> None:
    check_counts(servers, "chat", "--streaming", "--per-chunk-usage")


def reasoning(servers: Servers) -> None:
    """aiperf joins what the model thinks and says, and counts them apart."""
    with TemporaryDirectory() as folder:
        more = questions(folder)
        found = records(servers, "chat", *more, model=servers.thinking_model, url=servers.thinking_url)
    for one in found:
        assert one["text"].replace(" ", "") == (f.THOUGHT + f.THOUGHT_ANSWER).replace(" ", "")
        assert value(one, "usage_reasoning_tokens") == len(f.THOUGHT.split())
        assert value(one, "output_token_count") == value(one, "usage_completion_tokens") - len(f.THOUGHT.split())


def completions(servers: Servers) -> None:
    check_counts(servers, "completions", "--streaming")


def responses(servers: Servers) -> None:
    """Of a stream aiperf counts what ends with `response.completed` alone, which an answer of a set length does not."""
    check_counts(servers, "responses")
    check_answers(servers, "responses", "--streaming")


def errors(servers: Servers) -> None:
    """The tool has nothing to report, and says so by its exit status."""
    long = ("--synthetic-input-tokens-mean", str(TOO_MANY_TOKENS))
    found = records(servers, "chat", *long, fails=True)
    assert len(found) == REQUESTS
    assert all(one["error"]["code"] == 400 and "4096" in one["error"]["message"] for one in found)


def embeddings(servers: Servers) -> None:
    found = records(servers, "embeddings", *SYNTHETIC, fails=True)
    assert len(found) == REQUESTS
    assert all(one["error"]["code"] == 501 for one in found)
