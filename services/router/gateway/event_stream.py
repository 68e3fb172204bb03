"""Writes a choice's events as its text comes in: straight from the worker's messages while the client reads."""

from __future__ import annotations

from collections.abc import Callable

from services.router.gateway.event_ids import ChoiceEvents
from services.router.gateway.streaming import Client
from services.router.requests.choice_stream import ChoiceStream, TextDelta


async def write_events(
    choice: ChoiceStream, client: Client, events: Callable[[TextDelta], bytes], ids: ChoiceEvents | None = None
) -> None:
    """Runs the choice to its end. `events` makes complete events of a delta, or nothing yet; `ids` numbers them.

    Raises RouterError.
    """
    events = events if ids is None else ids.around(events)

    def pass_on(delta: TextDelta) -> None:
        if data := events(delta):
            client.write(data)
            if not client.writable:  # it does not read: from here on there is somebody to wait for it
                choice.divert(None)

    with choice:
        finished = False
        while not finished:
            choice.divert(pass_on if client.writable else None)
            delta = await choice.next()
            choice.divert(None)
            finished = delta.finish_reason is not None
            if data := events(delta):
                await client.events(data)
