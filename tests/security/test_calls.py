"""The signature of a call: whom it is from, for which run of which worker, and that it is made once."""

from __future__ import annotations

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.security.calls import CALLERS, HEADER, MAX_CALLERS, OTHER_RUN, CallSigner, CallVerifier
from services.security.cluster_key import NO_KEY, ClusterKey
from services.security.identity import ATTENTION, ROUTER

KEY = ClusterKey("the key of this cluster")
COMMIT, SESSION, APPLY = "/caracal.Expert/Commit", "/caracal.Expert/Session", "/caracal.Attention/ApplyTable"


def test_each_role_may_call_what_is_its_own() -> None:
    for method, roles in CALLERS.items():
        for role in (ROUTER, ATTENTION):
            fault = CallVerifier(KEY, "run").fault(method, CallSigner(KEY, role).metadata(method, "run"))
            assert bool(fault) != (role in roles), (method, role, fault)


def test_a_signature_holds_for_one_method_and_one_run_only() -> None:
    signer, verifier = CallSigner(KEY, ROUTER), CallVerifier(KEY, "run")
    assert "not signed" in verifier.fault(APPLY, signer.metadata(COMMIT, "run"))
    assert verifier.fault(COMMIT, signer.metadata(COMMIT, "run of another worker")) == OTHER_RUN
    assert verifier.fault(COMMIT, signer.metadata(COMMIT, "")) == OTHER_RUN
    assert verifier.fault(COMMIT, signer.metadata(COMMIT, "run")) == ""


def test_a_copy_of_a_call_is_rejected() -> None:
    signer, verifier = CallSigner(KEY, ROUTER), CallVerifier(KEY, "run")
    calls = [signer.metadata(COMMIT, "run") for _ in range(500)]
    assert not any(verifier.fault(COMMIT, call) for call in reversed(calls)), "calls may overtake each other"
    assert all("copy" in verifier.fault(COMMIT, call) for call in calls)


def test_no_clock_of_another_machine_matters() -> None:
    """A caller whose monotonic clock began long ago, and one that has just booted."""
    verifier = CallVerifier(KEY, "run")
    for now in (10**18, 5, 10**12):
        signer = CallSigner(KEY, ROUTER, repeat(now).__next__)
        assert [verifier.fault(COMMIT, signer.metadata(COMMIT, "run")) for _ in range(3)] == ["", "", ""]


def test_what_is_remembered_of_callers_is_bounded() -> None:
    verifier = CallVerifier(KEY, "run")
    for _ in range(MAX_CALLERS + 50):
        assert not verifier.fault(COMMIT, CallSigner(KEY, ROUTER).metadata(COMMIT, "run"))
    assert len(verifier._callers) == MAX_CALLERS


@pytest.mark.parametrize("role", ["expert", "admin", "", "router "])
def test_a_role_that_nobody_has_signs_nothing(role: str) -> None:
    assert CallVerifier(KEY, "run").fault(COMMIT, CallSigner(KEY, role).metadata(COMMIT, "run"))


def test_another_key_signs_nothing_and_an_old_one_as_long_as_it_is_known() -> None:
    both = ClusterKey("a new key of the cluster\nthe key of this cluster")
    assert "not signed" in CallVerifier(KEY, "r").fault(COMMIT, CallSigner(both, ROUTER).metadata(COMMIT, "r"))
    assert not CallVerifier(both, "r").fault(COMMIT, CallSigner(KEY, ROUTER).metadata(COMMIT, "r"))


def test_without_a_key_nothing_is_added() -> None:
    assert CallSigner(NO_KEY, ROUTER).metadata(COMMIT, "run") == ()


def test_methods_that_nobody_may_call_and_services_of_others() -> None:
    signer, verifier = CallSigner(KEY, ROUTER), CallVerifier(KEY, "run")
    assert verifier.fault("/caracal.Expert/Shutdown", signer.metadata("/caracal.Expert/Shutdown", "run"))
    assert not verifier.fault("/grpc.health.v1.Health/Check", ())


@given(st.lists(st.tuples(st.sampled_from([HEADER, "x"]), st.text() | st.binary()), max_size=3))
def test_no_other_metadata_are_a_signature(metadata: list[tuple[str, str | bytes]]) -> None:
    assert CallVerifier(KEY, "run").fault(COMMIT, metadata)


@given(st.integers(0, 200), st.characters(codec="ascii"))
def test_no_changed_letter_is_a_signature(place: int, letter: str) -> None:
    ((name, value),) = CallSigner(KEY, ROUTER).metadata(COMMIT, "run")
    changed = value[: place % len(value)] + letter + value[place % len(value) + 1 :]
    assert (CallVerifier(KEY, "run").fault(COMMIT, ((name, changed),)) == "") == (changed == value)
