"""How long a leader waits in a Redis that has no term before it begins one."""

from __future__ import annotations

from services.membership.pulse import Pulse
from services.router.placement.bare_redis import WAIT_S, BareRedis

EMPTY = Pulse(leads=True, epoch=0, term=0, changes=0, bare=True)
TAKEN = Pulse(leads=True, epoch=0, term=0, changes=0, taken=True, bare=True)
OTHERS = Pulse(leads=False, epoch=0, term=0, changes=0, bare=True)
NEW_CLUSTER = Pulse(leads=True, epoch=0, term=0, changes=0, taken=True)


def test_whoever_has_the_lease_waits_until_all_leases_have_been_renewed() -> None:
    bare = BareRedis()
    for now, pulse in ((5.0, TAKEN), (5.5, EMPTY), (6.0, EMPTY)):
        bare.saw(pulse, now)
        assert bare.bare
        assert bare.wait_left(now) == 5.0 + WAIT_S - now > 0
    assert bare.wait_left(5.0 + WAIT_S) == 0.0


def test_a_redis_of_a_new_cluster_or_with_a_term_needs_no_wait() -> None:
    bare = BareRedis()
    bare.saw(NEW_CLUSTER, 5.0)
    assert bare.wait_left(5.0) == 0.0
    bare.saw(EMPTY, 6.0)
    bare.saw(Pulse(leads=True, epoch=0, term=1000, changes=0), 6.1)
    assert not bare.bare
    assert bare.wait_left(6.1) == 0.0


def test_a_lease_that_was_lost_and_an_outage_begin_the_wait_anew() -> None:
    bare = BareRedis()
    bare.saw(TAKEN, 5.0)
    bare.saw(TAKEN, 6.0)
    assert bare.wait_left(6.0) == WAIT_S, "all may have been lost a second time"
    bare.saw(OTHERS, 7.0)
    bare.saw(EMPTY, 7.5)
    assert bare.wait_left(7.5) == WAIT_S, "another router has had the lease, and may have begun"
    bare.unavailable()
    bare.saw(EMPTY, 9.0)
    assert bare.wait_left(9.0) == WAIT_S, "workers could not renew their leases"
