"""`python -m bench.stalls` measures how long streams stand still when an expert worker, or the link to it, fails.

Each kind of failure gets a cluster of its own, with two expert workers that have all experts each. Callers repeat their
requests all the while; in the middle of it one worker is killed or stopped, or its link fails. The times are those
between two tokens of a stream, as its client sees them. Every failure is verified to have happened.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import grpc
import grpc.aio
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub

from bench.arguments import folder, number
from bench.checkpoints import console, prepare
from bench.main import RESULTS
from bench.processes import PATH, Cluster, cluster, proxied
from bench.report import markdown, write
from bench.row import Row, goal_of

CONFIG, SMOKE_CONFIG = "bench-90m", "bench-tiny"
WORKERS = 2
FOUND_S = 2.0  # until a slow link is to be found out
LATE_S = 0.5
ANSWER_S = 120.0


class NotInjected(RuntimeError):
    """A failure did not happen, so nothing was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The load: callers, tokens of an answer, and the seconds before a failure and while it lasts."""

    callers: int = 4
    answer: int = 200
    before_s: float = 8.0
    during_s: float = 12.0
    rounds: int = 5


SMOKE = Sizes(callers=2, answer=60, before_s=3.0, during_s=4.0, rounds=1)


class Proxy:
    """The proxy before an expert worker."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def say(self, line: str) -> str:
        """Changes the link, or asks for what was kept back; returns the answer."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()


class Proxies(list[Proxy]):
    """Those of one cluster, in the order of its expert workers."""

    def __call__(self, stack: ExitStack, directory: Path) -> dict[str, str]:
        ends, variables = proxied()
        child = stack.enter_context(_proxy(ends, directory / "proxy.log"))
        self.append(Proxy(child))
        return variables


@contextmanager
def _proxy(ends: Sequence[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.fault_proxy", *ends]
    with log.open("ab") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env=os.environ | {"PYTHONPATH": PATH},
        )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@dataclass(frozen=True, slots=True)
class Target:
    """The expert worker that fails, and the proxy before it."""

    pid: int
    proxy: Proxy

    @property
    def state(self) -> str:
        """The process's state, as proc(5) names it; empty when it is gone."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return ""
        return stat[stat.rindex(")") + 2]


def _signalled(number: signal.Signals, states: str) -> Callable[[Target], None]:
    def send(target: Target) -> None:
        os.kill(target.pid, number)
        end = time.monotonic() + 5
        while target.state not in states:
            if time.monotonic() > end:
                raise NotInjected(f"the worker's state is {target.state} after {number.name}")
            time.sleep(0.001)

    return send


def _link(line: str) -> Callable[[Target], None]:
    def change(target: Target) -> None:
        if target.proxy.say(line) != line.split()[0]:
            raise NotInjected(f"the proxy did not take {line!r}")

    return change


KINDS: dict[str, Callable[[Target], None]] = {
    "none": lambda target: None,
    "killed": _signalled(signal.SIGKILL, "Z"),
    "stopped": _signalled(signal.SIGSTOP, "T"),
    "blackholed": _link("blackholed"),
    "one-way": _link("one-way"),
    "late": _link(f"late {LATE_S:g}"),
}
ON_THE_LINK = "blackholed", "one-way", "late"


def _heal(kind: str, target: Target) -> None:
    """Ends a failure, so that the cluster can stop. Raises NotInjected when nothing was kept back on the link."""
    if kind == "stopped":
        os.kill(target.pid, signal.SIGCONT)
    if kind in ON_THE_LINK and int(target.proxy.say("held")) == 0:
        raise NotInjected(f"{kind}: nothing was on the link while it failed")
    target.proxy.say("pass")


@dataclass(slots=True)
class Answer:
    """One request of a caller, as far as it came."""

    tokens: list[tuple[int, int]] = field(default_factory=list)  # id and checksum of the logits
    times: list[float] = field(default_factory=list)
    ended: bool = False


class Callers:
    """Each repeats one greedy request until it is to stop; the answers of one must all be the same, bit for bit."""

    def __init__(self, target: str, sizes: Sizes) -> None:
        self.answers: list[list[Answer]] = [[] for _ in range(sizes.callers)]
        self.errors: list[str] = []
        self._channel, self._sizes = grpc.aio.insecure_channel(target), sizes
        self._stopping = False
        self._tasks = [asyncio.create_task(self._repeat(caller)) for caller in range(sizes.callers)]

    async def stop(self) -> None:
        """Waits for the last answers."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._channel.close()

    @property
    def lost(self) -> int:
        """Requests without a whole answer."""
        return sum(not answer.ended for answers in self.answers for answer in answers)

    @property
    def changed(self) -> int:
        """Answers that differ from the caller's first one."""
        return sum(answer.tokens != answers[0].tokens for answers in self.answers for answer in answers if answer.ended)

    def gaps(self, since: float, until: float) -> list[float]:
        """The times between two tokens of an answer, of those that touch what is between two moments."""
        found = (pairwise(answer.times) for answers in self.answers for answer in answers)
        return [later - earlier for times in found for earlier, later in times if since < later and earlier < until]

    async def _repeat(self, caller: int) -> None:
        sampling = attention_pb2.Sampling(seed=1, max_tokens=self._sizes.answer, ignore_eos=True)
        request = router_pb2.TextRequest(prompt=f"w{caller + 20}" * 16, sampling=sampling)
        while not self._stopping:
            self.answers[caller].append(answer := Answer())
            try:
                async for event in RouterStub(self._channel).Generate(request, timeout=ANSWER_S):
                    answer.tokens += [(token.id, token.logits_checksum) for token in event.tokens]
                    answer.times += [time.perf_counter()] * len(event.tokens)
                    answer.ended |= bool(event.finish_reason)
            except grpc.aio.AioRpcError as error:
                self.errors.append(f"{error.code().name}: {error.details()}")


@dataclass(slots=True)
class Found:
    """What rounds of one kind have found. Seconds."""

    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)  # of those, after FOUND_S
    lost: int = 0
    changed: int = 0


async def _fail(kind: str, one: Cluster, proxies: Proxies, sizes: Sizes, found: Found) -> None:
    target = Target(one.pids["expert_worker"][-1], proxies[-1])
    callers = Callers(one.grpc, sizes)
    began = time.perf_counter()
    await asyncio.sleep(sizes.before_s)
    KINDS[kind](target)
    failed = time.perf_counter()
    await asyncio.sleep(sizes.during_s)
    until = time.perf_counter()
    _heal(kind, target)
    await callers.stop()
    for error in callers.errors:
        console.print(f"{kind}: {error}")
    found.before += callers.gaps(began + sizes.before_s / 2, failed)
    found.during += callers.gaps(failed, until)
    found.later += callers.gaps(failed + FOUND_S, until)
    found.lost += callers.lost
    found.changed += callers.changed
    if not found.before or not found.later:
        raise NotInjected(f"{kind}: no tokens came before, or after {FOUND_S:g} s of it")


def measure(model: Path, sizes: Sizes, kinds: Sequence[str]) -> list[Row]:
    """Runs every kind in every round. Raises NotInjected."""
    found = {kind: Found() for kind in kinds}
    for round_ in range(sizes.rounds):
        for kind in kinds:
            console.print(f"round {round_ + 1} of {sizes.rounds}: {kind}")
            proxies = Proxies()
            with (
                tempfile.TemporaryDirectory() as logs,
                cluster(model, Path(logs), experts=WORKERS, behind=proxies) as one,
            ):
                asyncio.run(_fail(kind, one, proxies, sizes, found[kind]))
    return [row for kind in kinds for row in _rows(kind, found[kind], sizes)]


def _rows(kind: str, found: Found, sizes: Sizes) -> Iterator[Row]:
    section = f"{sizes.callers} streams, one of {WORKERS} expert workers fails; times between two tokens"
    before, late = _quantile(found.before, 0.99), kind == "late"
    values: list[tuple[str, float, str, str]] = [
        ("p99 before", 1000 * before, "ms", ""),
        ("p50", 1000 * _quantile(found.during, 0.5), "ms", ""),
        ("p99", 1000 * _quantile(found.during, 0.99), "ms", "" if late or kind == "none" else "≤ 100"),
        ("longest", 1000 * max(found.during), "ms", "" if late or kind == "none" else "≤ 300"),
        (f"p99 after {FOUND_S:g} s ÷ before", _quantile(found.later, 0.99) / before, "", "≤ 2" if late else ""),
        ("requests lost", found.lost, "", "≤ 0"),
        ("answers changed", found.changed, "", "≤ 0"),
    ]
    for what, value, unit, goal in values:
        met = goal_of(value, goal) if goal else None
        yield Row(what, value, unit, goal, met, section=section, column=kind, key=f"{kind}/{what}")


def _quantile(values: Sequence[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stalls", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="failures to measure")
    parser.add_argument("--rounds", type=number(1), default=Sizes().rounds, help="clusters of each kind")
    parser.add_argument("--out", type=folder, default=RESULTS, help="where stalls.json and stalls.md go")
    parser.add_argument("--smoke", action="store_true", help="each kind once and small: nothing is written")
    given = parser.parse_args()
    model = prepare(SMOKE_CONFIG if given.smoke else CONFIG).path
    rows = measure(model, SMOKE if given.smoke else Sizes(rounds=given.rounds), given.kinds)
    if not given.smoke:
        write(rows, given.out, "stalls")
    print(markdown(rows))


if __name__ == "__main__":
    main()
