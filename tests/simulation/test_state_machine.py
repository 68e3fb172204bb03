"""The same world, driven step by step by hypothesis: it looks for the shortest way to a violation."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from simulation.schedule import FAULTS, LONGEST_S, SHORTEST_S, Asked, Fault, Schedule
from simulation.world import World

NUMBERS = st.integers(0, 7)
PROMPTS = st.lists(st.integers(1, 59), min_size=1, max_size=5).map(tuple)


class Protocol(RuleBasedStateMachine):
    """Requests, faults, and time that passes, in any order. What must hold is looked at in each event."""

    @initialize(seed=st.integers(0, 999), routers=st.integers(1, 2), attention=st.integers(1, 3), experts=NUMBERS)
    def begin(self, seed: int, routers: int, attention: int, experts: int) -> None:
        self.world = World(Schedule(seed, routers, attention, 1 + experts % 3))
        self.world.timeline.run(self.world.begins_in)

    @rule(prompt=PROMPTS, tokens=st.integers(1, 12), leaves=st.sampled_from([0, 0, 0, 1, 3]))
    def ask(self, prompt: tuple[int, ...], tokens: int, leaves: int) -> None:
        self.world.ask(Asked(0.0, prompt, tokens, min(leaves, tokens)))

    @rule(
        kind=st.sampled_from(FAULTS),
        seconds=st.floats(SHORTEST_S, LONGEST_S),
        one=NUMBERS,
        other=NUMBERS,
        amount=st.floats(-1, 1),
    )
    def fault(self, kind: str, seconds: float, one: int, other: int, amount: float) -> None:
        self.world.begin(Fault(kind, 0.0, seconds, one, other, amount))

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.2, 0.7]))
    def time_passes(self, seconds: float) -> None:
        self.world.timeline.run(self.world.timeline.now + seconds)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.timeline.run(self.world.timeline.now + LONGEST_S)
                self.world.come_to_rest()
            finally:
                self.world.close()


Protocol.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestProtocol = Protocol.TestCase
