"""guidellm, the load generator: its command as docs/load-tools.md has it, and what its JSON says of every request."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compat import features as f
from compat.features import Servers
from compat.load_tools import OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, STREAMS, TOO_MANY_TOKENS, PromptTokens, run


def requests(servers: Servers, path: str, data: str, url: str = "", backend: str = "") -> dict[str, list[Any]]:
    """Returns the records of a run's requests by their outcome. `data`, `backend`: the command's options for them."""
    target = f"target={url or servers.url},request_format={path}{backend}"
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        run(
            "guidellm", "run", "--backend", f"kind=openai_http,{target}",
            "--profile", f"kind=concurrent,streams={STREAMS}", "--constraint", f"kind=max_requests,count={REQUESTS}",
            "--data", data, "--tokenizer", f"kind=hf_auto,model={servers.model_path}",
            "--output", f"kind=json,path={out}", "--disable-console-interactive",
            GUIDELLM__MAX_WORKER_PROCESSES="1",  # each of them loads torch
        )  # fmt: skip
        (benchmark,) = json.loads(out.read_text())["benchmarks"]
    found: dict[str, list[Any]] = benchmark["requests"]
    assert {name: len(found[name] or []) for name in found} == benchmark["metrics"]["request_totals"] | {"total": 0}
    return found


def synthetic(prompt_tokens: int = PROMPT_TOKENS) -> str:
    return f"kind=synthetic_text,prompt_tokens={prompt_tokens},output_tokens={OUTPUT_TOKENS}"


def check_counts(servers: Servers, path: str) -> None:
    """All requests succeed, and have as many tokens as asked for and as transformers counts in what was sent."""
    found = requests(servers, path, synthetic())
    assert len(found["successful"]) == REQUESTS
    tokens = PromptTokens(servers)
    for one in found["successful"]:
        sent = json.loads(one["request_args"])["body"]
        assert one["output_metrics"]["text_tokens"] == OUTPUT_TOKENS
        assert one["input_metrics"]["text_tokens"] == tokens.of(sent) >= PROMPT_TOKENS
    assert sum(one["info"]["timings"]["token_iterations"] for one in found["successful"]) > 2 * REQUESTS, "not streamed"


def asked(servers: Servers, url: str = "", backend: str = "") -> list[Any]:
    """Returns the records of requests with features.py's question, all of which succeed."""
    with TemporaryDirectory() as folder:
        data = Path(folder) / "questions.jsonl"
        data.write_text((json.dumps({"prompt": f.QUESTION}) + "\n") * REQUESTS)
        found = requests(servers, "/v1/chat/completions", f"kind=json_file,path={data}", url, backend)
    assert len(found["successful"]) == REQUESTS
    return found["successful"]


def chat(servers: Servers) -> None:
    for one in asked(servers, backend=",stream=false"):
        assert f.ANSWER in one["output"]
        assert one["input_metrics"]["text_tokens"] == PromptTokens(servers).of(json.loads(one["request_args"])["body"])


def streaming(servers: Servers) -> None:
    check_counts(servers, "/v1/chat/completions")


def reasoning(servers: Servers) -> None:
    for one in asked(servers, servers.thinking_url):
        assert one["reasoning_output"].strip() == f.THOUGHT
        assert one["output"].strip() == f.THOUGHT_ANSWER


def completions(servers: Servers) -> None:
    check_counts(servers, "/v1/completions")


def responses(servers: Servers) -> None:
    check_counts(servers, "/v1/responses")


def errors(servers: Servers) -> None:
    """guidellm shows the status alone."""
    found = requests(servers, "/v1/chat/completions", synthetic(TOO_MANY_TOKENS))
    assert len(found["errored"]) == REQUESTS
    assert all("400 Bad Request" in one["info"]["error"] for one in found["errored"])


def embeddings(servers: Servers) -> None:
    found = requests(servers, "/v1/embeddings", synthetic())
    assert len(found["errored"]) == REQUESTS
    assert all("501 Not Implemented" in one["info"]["error"] for one in found["errored"])
