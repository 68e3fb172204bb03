"""Clients that ask again and again, and the histories of what they have received."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence

import grpc
from faults.asking import AGAIN_S, LONGEST_S, Door, Failed, Question, Refused
from faults.history import Answer
from support.cluster_harness import until


class Traffic:
    """A thread for each question; all go on until `finish`, and until they have got one answer. `requests`: of each,
    the answers of its choices. `refused`: requests at the door, by the number of their question; `turned_away`: how
    often a router that could not serve has sent a stream on to another one."""

    def __init__(self, door: Door, questions: Sequence[Question]) -> None:
        self.requests: list[list[Answer]] = []
        self.refused: Counter[int] = Counter()
        self.turned_away = 0
        self._answered: set[int] = set()
        self._door, self._questions = door, questions
        self._channel = grpc.insecure_channel(door.grpc)
        self._stopping, self._stopped_at = threading.Event(), math.inf
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(questions)]
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
        """Waits for the answers that have begun, and for one to each question; returns all."""
        self._stopped_at = time.monotonic()
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()
        return self.requests

    @property
    def unanswered(self) -> list[str]:
        """The questions that got no whole answer, right or wrong."""
        return [
            f"lost: question {number} got no answer, and was refused {self.refused[number]} times"
            for number in range(len(self._questions))
            if number not in self._answered
        ]

    def _done(self, number: int) -> bool:
        return self._stopping.is_set() and (number in self._answered or time.monotonic() > self._stopped_at + LONGEST_S)

    def _run(self, number: int, question: Question) -> None:
        while not self._done(number):
            begun = time.monotonic()
            answers = [Answer(oracle, begun) for oracle in question.oracles]
            self.requests.append(answers)
            try:
                self.turned_away += question.ask(self._door, self._channel, answers)
                self._answered.add(number)
            except Refused:
                self.requests.remove(answers)
                self.refused[number] += 1
                time.sleep(AGAIN_S)
            except Failed as failed:
                for answer in answers:
                    answer.error = str(failed)
                self._answered.add(number)  # which is a verdict of its own
                time.sleep(AGAIN_S)


def verdicts(requests: Sequence[Sequence[Answer]]) -> list[str]:
    """What is wrong with the answers that are not right."""
    return [verdict for answers in requests for answer in answers if (verdict := answer.verdict())]
