"""Streams one chat through the Service, with the standard library only. Runs in the test pod, which limits its time."""

import json
import os
import time
import urllib.error
import urllib.request

GATEWAY = os.environ["GATEWAY"]
API_KEY = os.environ.get("API_KEY", "").strip()
SHOWN = 300  # characters of an answer that is an error


def wait_until_ready() -> None:
    while True:
        try:
            with urllib.request.urlopen(f"{GATEWAY}/ready", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            print(f"not ready yet: {error}")
            time.sleep(1)


def chat() -> str:
    body = {
        "model": os.environ["MODEL"],
        "messages": [{"role": "user", "content": os.environ["PROMPT"]}],
        "max_tokens": int(os.environ["MAX_TOKENS"]),
        "temperature": 0,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{GATEWAY}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}),
    )
    finish_reason = ""
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[len(b"data: ") :])
            if "error" in event:
                raise SystemExit(f"the gateway sent an error: {event['error']['message']}")
            for choice in event["choices"]:
                print(choice["delta"].get("content") or "", end="")
                finish_reason = choice.get("finish_reason") or finish_reason
    return finish_reason


def ask() -> str:
    """Returns the finish reason. Ends the program with one line when there is no answer."""
    try:
        return chat()
    except urllib.error.HTTPError as error:
        body = " ".join(error.read(4 * SHOWN).decode(errors="replace").split())[:SHOWN]
        hint = "" if error.code != 401 or API_KEY else "; name a key for this test in router.apiKeys.testSecretKey"
        raise SystemExit(f"the gateway answers {error.code}: {body}{hint}") from None
    except OSError as error:
        raise SystemExit(f"the gateway does not answer: {error}") from None


wait_until_ready()
finish_reason = ask()
print(f"\nfinish_reason: {finish_reason}")
if finish_reason not in ("stop", "length"):
    raise SystemExit("the stream ended without a finish_reason")
