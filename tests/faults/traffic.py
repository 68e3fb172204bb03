"""Clients that ask again and again, and the histories of what they have received."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from faults.history import Answer, Oracle
from support.cluster_harness import until

LONGEST_S = 60.0  # of a request


@dataclass(frozen=True)
class Question:
    prompt: str
    sampling: attention_pb2.Sampling
    oracle: Oracle


class Traffic:
    """A thread for each question; all go on until `finish`."""

    def __init__(self, target: str, questions: Sequence[Question]) -> None:
        self.answers: list[Answer] = []
        self._questions = questions
        self._channel = grpc.insecure_channel(target)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(question,)) for question in questions]
        for thread in self._threads:
            thread.start()

    @property
    def tokens(self) -> int:
        return sum(len(answer.times) for answer in self.answers)

    def wait_for_tokens(self, tokens: int) -> None:
        goal = self.tokens + tokens
        until(lambda: self.tokens >= goal, "the streams do not advance", LONGEST_S)

    def finish(self) -> list[Answer]:
        """Waits for the answers that have begun; returns all."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()
        return self.answers

    def _run(self, question: Question) -> None:
        request = router_pb2.TextRequest(prompt=question.prompt, sampling=question.sampling)
        while not self._stopping.is_set():
            answer = Answer(question.oracle, time.monotonic())
            self.answers.append(answer)
            try:
                for event in RouterStub(self._channel).Generate(request, timeout=LONGEST_S):
                    now = time.monotonic()
                    for token in event.tokens:
                        answer.token(token.index, token.id, token.logits_checksum, now)
                    if event.finish_reason:
                        answer.ending(event.finish_reason)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not answer.times:
                    self.answers.remove(answer)  # refused at the door, and asked again as the answer says
                    time.sleep(0.05)
                    continue
                answer.error = f"{error.code().name}: {error.details()}"
