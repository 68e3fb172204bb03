"""Runs in a pod: callers that repeat the same requests through the routers' Service, without retries.

Prints one JSON line per request: the caller, the request's number, a digest of the result (of ids and checksums of the
logits, or of the text), the arrival time of each token, and the error; and at the end how many each caller has sent.
Ends after ROUNDS requests of each caller, or when STOP exists; with a failure when a caller ends in any other way.
"""

import hashlib
import http.client
import json
import os
import threading
import time
import traceback
from pathlib import Path

import grpc
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub

HOST = os.environ["ROUTER"]
MODEL = os.environ["MODEL"]
GRPC_CALLERS, HTTP_CALLERS = 8, 2
TOKENS = int(os.environ.get("TOKENS", "160"))
ROUNDS = int(os.environ.get("ROUNDS", "0"))
STOP = Path(os.environ.get("STOP", "/tmp/stop"))
TIMEOUT_S = 90
_printing = threading.Lock()


def over_grpc(caller: int, times: list[float]) -> str:
    """Returns the digest of ids and checksums. Each request opens its own connection, as a new client would."""
    sampling = attention_pb2.Sampling(
        temperature=0.8 if caller % 2 else 0.0, seed=caller + 1, max_tokens=TOKENS, ignore_eos=True
    )
    prompt = f"caller {caller} asks what 12 + {caller} is. " * (1 + caller)
    digest = hashlib.sha256()
    finish_reason = ""
    with grpc.insecure_channel(f"{HOST}:50051", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = router_pb2.TextRequest(prompt=prompt, sampling=sampling)
        for event in RouterStub(channel).Generate(request, timeout=TIMEOUT_S):
            for token in event.tokens:
                if token.index != len(times):
                    raise ValueError(f"token {token.index} instead of token {len(times)}")
                digest.update(f"{token.id}:{token.logits_checksum} ".encode())
                times.append(time.time())
            finish_reason = event.finish_reason or finish_reason
    if finish_reason != "length":
        raise ValueError(f"the stream ended with {finish_reason!r} after {len(times)} tokens")
    return digest.hexdigest()


def over_http(caller: int, times: list[float]) -> str:
    """Returns the digest of the streamed text."""
    body = {"model": MODEL, "prompt": f"caller {caller} says hello. " * 3, "max_tokens": TOKENS, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True}
    connection = http.client.HTTPConnection(HOST, 8000, timeout=TIMEOUT_S)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {response.read(500).decode(errors='replace')}")
    digest = hashlib.sha256()
    finish_reason, done = "", False
    for line in response:
        if line.strip() == b"data: [DONE]":
            done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(event["error"]["message"])
            for choice in event["choices"]:
                digest.update(choice["text"].encode())
                times.append(time.time())
                finish_reason = choice["finish_reason"] or finish_reason
    connection.close()
    if finish_reason != "length" or not done:
        raise ValueError(f"the stream ended with {finish_reason!r}, [DONE]: {done}")
    return digest.hexdigest()


def show(record: dict[str, object]) -> None:
    with _printing:
        print(json.dumps(record), flush=True)


def send_request(kind: str, caller: int, number: int) -> None:
    times: list[float] = []
    error = digest = ""
    started = time.time()
    try:
        digest = {"grpc": over_grpc, "http": over_http}[kind](caller, times)
    except grpc.RpcError as failed:
        error = f"{failed.code().name}: {failed.details()}" if isinstance(failed, grpc.Call) else repr(failed)
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as failed:
        error = f"{type(failed).__name__}: {failed}"
    token_times = [round((moment - started) * 1000, 1) for moment in times]
    record = {
        "caller": f"{kind}-{caller}",
        "number": number,
        "digest": digest,
        "error": error,
        "started": started,
        "token_times": token_times,
    }
    show(record)
    if error:
        time.sleep(1)


def repeat(kind: str, caller: int) -> None:
    sent = 0
    while not STOP.exists() and not (ROUNDS and sent >= ROUNDS):
        send_request(kind, caller, sent)
        sent += 1
    show({"caller": f"{kind}-{caller}", "sent": sent})


def fail(died: threading.ExceptHookArgs) -> None:
    """A caller that dies would be missed by nobody: the others go on."""
    traceback.print_exception(died.exc_value)
    os._exit(1)


threading.excepthook = fail
callers = [("grpc", n) for n in range(GRPC_CALLERS)] + [("http", n) for n in range(HTTP_CALLERS)]
threads = [threading.Thread(target=repeat, args=caller) for caller in callers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
