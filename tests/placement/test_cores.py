"""The split of the machine's cores over roles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.local.cores import cores_of


def test_two_cores_two_workers() -> None:
    assert cores_of("attention", 1, 1, [0, 1]) == {0}
    assert cores_of("expert", 1, 1, [0, 1]) == {1}
    assert cores_of("router", 1, 1, [0, 1]) == {0, 1}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 64))
def test_shares_are_disjoint_cover_all_cores_and_are_never_empty(attention: int, expert: int, count: int) -> None:
    cores = list(range(3, 3 + count))
    attention_cores, expert_cores = (cores_of(role, attention, expert, cores) for role in ("attention", "expert"))
    assert attention_cores
    assert expert_cores
    if count < attention + expert:
        assert attention_cores == expert_cores == set(cores)
    else:
        assert attention_cores | expert_cores == set(cores)
        assert not attention_cores & expert_cores
