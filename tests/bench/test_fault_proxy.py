"""The link of the proxy that fails on purpose: what it keeps back, and what it damages."""

from __future__ import annotations

import threading
import time

from bench.fault_proxy import FailingLink
from bench.forwarder import CALL, REPLY, Pieces


def moved(link: FailingLink, way: str, pieces: list[bytes]) -> list[bytes]:
    """What comes out of the link, as a thread takes it; it may still be waiting."""
    queue, out = Pieces(link, way, ""), list[bytes]()
    for piece in pieces:
        queue.put(piece)

    def take() -> None:
        for _ in pieces:
            out.append(queue.get())

    threading.Thread(target=take, daemon=True).start()
    return out


def until(out: list[bytes], count: int) -> None:
    end = time.monotonic() + 10
    while len(out) < count:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_is_kept_back_gets_through_once_the_link_passes_again() -> None:
    link = FailingLink()
    link.become("one-way")
    there, back = moved(link, CALL, [b"call"]), moved(link, REPLY, [b"reply"])
    until(there, 1)
    end = time.monotonic() + 10
    while not link.held:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert not back
    link.become("pass")
    until(back, 1)
    assert (there, back) == ([b"call"], [b"reply"])


def test_late_replies_are_late_by_as_much() -> None:
    link = FailingLink()
    link.become("late", 0.2)
    began = time.perf_counter()
    out = moved(link, REPLY, [b"reply"])
    until(out, 1)
    assert time.perf_counter() - began >= 0.2


def test_one_bit_of_as_many_pieces_flips_as_asked_for() -> None:
    link = FailingLink()
    link.flip(2)
    sent = [bytes(8), b"", bytes(100), bytes(8)]
    out = moved(link, CALL, sent)
    until(out, len(sent))
    assert [sum(byte.bit_count() for byte in piece) for piece in out] == [1, 0, 1, 0]
    assert list(map(len, out)) == list(map(len, sent))
    assert link.flipped == 2
