"""Schedules that have found a bug, each by the name of the mutation that is the protocol as it was before: under it the
schedule finds the bug again, and without it nothing."""

from __future__ import annotations

from simulation.schedule import Asked, Fault, Schedule, schedule

FOUND = {
    "a leader believes leases alone": schedule(170),
    "a link that was reset is a death": schedule(409),
    "a run dies more than once": Schedule(
        1,
        routers=2,
        attention=1,
        asked=(Asked(1.5, (5, 6), 16),),
        faults=(Fault("reset", 1.55, 0.1, 0, 1, 0.0), Fault("kill attention", 1.628, 0.5, 0, 0, 0.0)),
    ),
    "a class that nobody can use is chosen": Schedule(
        1,
        routers=1,
        faults=(
            Fault("kill router", 1.2, 0.6, 0, 0, 0.0),
            Fault("redis clock", 1.7, 0.1, 0, 0, 1.0),
            Fault("add foreign expert", 1.75, 0.1, 0, 0, 0.0),
        ),
    ),
    "the term of a leader without a table is hidden": Schedule(
        1,
        routers=3,
        experts=3,
        faults=(
            Fault("kill router", 1.0, 9.0, 0, 0, 0.0),
            Fault("router without redis", 4.0, 2.5, 2, 0, 0.0),
            Fault("add expert", 6.9, 0.1, 0, 0, 0.0),
            Fault("kill expert", 7.0, 3.0, 0, 0, 0.0),
        ),
    ),
    "a leader begins in a Redis that has lost everything": schedule(5735),
    "a term that Redis loses is forgotten": schedule(14268),
    "a leader waits without the lease": Schedule(
        1170,
        routers=3,
        attention=1,
        experts=1,
        faults=(Fault("kill expert", 0.317, 0.643, 14, 61, 0.0), Fault("redis wiped", 0.504, 1.6, 22, 32, 0.0)),
    ),
    "a second table of an epoch counts as taken": schedule(9303),
}

# The nine seeds of the first 16,600 under which two leaders gave one epoch to two tables.
ONE_EPOCH_TWICE = (5735, 6945, 7436, 9303, 10673, 12193, 13632, 14268, 14422)
