"""Clients that ask again and again, and the histories of what they have received."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import grpc
from faults.asking import AGAIN_S, LONGEST_S, Door, Failed, Question, Refused
from faults.history import Answer
from support.cluster_harness import until


class Traffic:
    """A thread for each question; all go on until `finish`. `requests`: of each, the answers of its choices."""

    def __init__(self, door: Door, questions: Sequence[Question]) -> None:
        self.requests: list[list[Answer]] = []
        self._door = door
        self._channel = grpc.insecure_channel(door.grpc)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(question,)) for question in questions]
        for thread in self._threads:
            thread.start()

    @property
    def tokens(self) -> int:
        """How many have come; pieces of text where no tokens do."""
        return sum(answer.tokens or len(answer.times) for answers in self.requests for answer in answers)

    def wait_for_tokens(self, tokens: int) -> None:
        goal = self.tokens + tokens
        until(lambda: self.tokens >= goal, "the streams do not advance", LONGEST_S)

    def finish(self) -> list[list[Answer]]:
        """Waits for the answers that have begun; returns all."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()
        return self.requests

    def _run(self, question: Question) -> None:
        while not self._stopping.is_set():
            begun = time.monotonic()
            answers = [Answer(oracle, begun) for oracle in question.oracles]
            self.requests.append(answers)
            try:
                question.ask(self._door, self._channel, answers)
            except Refused:
                self.requests.remove(answers)
                time.sleep(AGAIN_S)
            except Failed as failed:
                for answer in answers:
                    answer.error = str(failed)


def verdicts(requests: Sequence[Sequence[Answer]]) -> list[str]:
    """What is wrong with the answers that are not right."""
    return [verdict for answers in requests for answer in answers if (verdict := answer.verdict())]
