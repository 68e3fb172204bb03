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
}
