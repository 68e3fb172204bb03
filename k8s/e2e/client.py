"""Runs in a pod: callers that send the same requests again and again, through the router's Service, without a retry.

One JSON line per request: who, what came (a digest of ids and checksums of the logits, or of the text), when each token
came, and what went wrong. Ends after ROUNDS requests of each caller, or when the file STOP appears.
"""

import hashlib
import http.client
import json
import os
import threading
import time
from pathlib import Path

import grpc
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub

HOST = os.environ["ROUTER"]
MODEL = os.environ["MODEL"]
GRPC_CALLERS, HTTP_CALLERS = 8, 2
TOKENS = int(os.environ.get("TOKENS", "160"))
ROUNDS = int(os.environ.get("ROUNDS", "0"))
STOP = Path("/tmp/stop")
TIMEOUT_S = 90
_printing = threading.Lock()


def over_grpc(caller: int, times: list[float]) -> str:
    """Digest of ids and checksums. Each request has a connection of its own, as from a new client."""
    sampling = attention_pb2.Sampling(
        temperature=0.8 if caller % 2 else 0.0, seed=caller + 1, max_tokens=TOKENS, ignore_eos=True
    )
    prompt = f"caller {caller} asks what 12 + {caller} is. " * (1 + caller)
    found = hashlib.sha256()
    ending = ""
    with grpc.insecure_channel(f"{HOST}:50051", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = router_pb2.TextRequest(prompt=prompt, sampling=sampling)
        for event in RouterStub(channel).Generate(request, timeout=TIMEOUT_S):
            for token in event.tokens:
                if token.index != len(times):
                    raise ValueError(f"token {token.index} came in place of {len(times)}")
                found.update(f"{token.id}:{token.logits_checksum} ".encode())
                times.append(time.time())
            ending = event.finish_reason or ending
    if ending != "length":
        raise ValueError(f"the stream ended with {ending!r} after {len(times)} tokens")
    return found.hexdigest()


def over_http(caller: int, times: list[float]) -> str:
    """Digest of the streamed text."""
    body = {"model": MODEL, "prompt": f"caller {caller} says hello. " * 3, "max_tokens": TOKENS, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True}
    connection = http.client.HTTPConnection(HOST, 8000, timeout=TIMEOUT_S)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"status {response.status}: {response.read(500).decode(errors='replace')}")
    found = hashlib.sha256()
    ending, done = "", False
    for line in response:
        if line.strip() == b"data: [DONE]":
            done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(event["error"]["message"])
            for choice in event["choices"]:
                found.update(choice["text"].encode())
                times.append(time.time())
                ending = choice["finish_reason"] or ending
    connection.close()
    if ending != "length" or not done:
        raise ValueError(f"the stream ended with {ending!r}, [DONE]: {done}")
    return found.hexdigest()


def ask(kind: str, caller: int) -> None:
    times: list[float] = []
    error = digest = ""
    started = time.time()
    try:
        digest = {"grpc": over_grpc, "http": over_http}[kind](caller, times)
    except grpc.RpcError as failed:
        error = f"{failed.code().name}: {failed.details()}" if isinstance(failed, grpc.Call) else repr(failed)
    except (OSError, ValueError, http.client.HTTPException) as failed:
        error = f"{type(failed).__name__}: {failed}"
    arrivals = [round((moment - started) * 1000, 1) for moment in times]
    record = {"caller": f"{kind}-{caller}", "digest": digest, "error": error, "started": started, "arrivals": arrivals}
    if error:
        time.sleep(1)
    with _printing:
        print(json.dumps(record), flush=True)


def go_on(kind: str, caller: int) -> None:
    asked = 0
    while not STOP.exists() and not (ROUNDS and asked >= ROUNDS):
        ask(kind, caller)
        asked += 1


callers = [("grpc", n) for n in range(GRPC_CALLERS)] + [("http", n) for n in range(HTTP_CALLERS)]
threads = [threading.Thread(target=go_on, args=caller) for caller in callers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
