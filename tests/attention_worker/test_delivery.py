"""Deliveries from the engine's thread to an event loop: all of them, in order, on the loop, and none after the end."""

from __future__ import annotations

import asyncio
import threading

from services.attention_worker.engine.delivery import Delivery, LoopDelivery
from services.attention_worker.engine.sequence import Ending, TokenOut

COUNT = 100_000  # more wake-ups than a pipe holds


def test_everything_arrives_in_order_on_the_loop() -> None:
    seen: list[int] = []
    threads = set()

    async def receive() -> None:
        ended = asyncio.Event()

        def emit(tokens: list[TokenOut], ending: Ending | None) -> None:
            threads.add(threading.current_thread())
            seen.extend(token.index for token in tokens)
            if ending:
                ended.set()

        def engine() -> None:
            for index in range(COUNT):
                delivery([(emit, [TokenOut(index, 0, 0)], None)])
            delivery([(emit, [], Ending("stop"))])

        delivery = LoopDelivery(asyncio.get_running_loop())
        thread = threading.Thread(target=engine)
        thread.start()
        thread.join()  # the loop does not run meanwhile: the pipe is full
        async with asyncio.timeout(30):
            await ended.wait()
        delivery.close()

    asyncio.run(receive())
    assert seen == list(range(COUNT))
    assert threads == {threading.main_thread()}


def test_nothing_is_delivered_after_the_end() -> None:
    async def close() -> list[TokenOut]:
        seen: list[TokenOut] = []
        one: Delivery = (lambda tokens, _: seen.extend(tokens), [TokenOut(0, 0, 0)], None)
        delivery = LoopDelivery(asyncio.get_running_loop())
        delivery([one])
        delivery.close()
        delivery([one])
        await asyncio.sleep(0.01)
        return seen

    assert asyncio.run(close()) == []
