"""The worker's gRPC edge: message -> batcher -> message. It checks calls and carries refusals; it computes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NoReturn

import grpc
import structlog
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2

from services.checkpoint.config import CheckpointError
from services.expert_worker.batcher import Batcher, DeadlinePassed
from services.expert_worker.call_check import BadCall, Expected, parse
from services.expert_worker.experts import NotHeldError
from services.expert_worker.p2p_registry import Pairs
from services.expert_worker.payloads import Payloads
from services.expert_worker.placement import Holding, StaleTable, WrongTable
from services.expert_worker.sessions import Sessions
from services.process.telemetry import progress
from services.transport.p2p_group import PairBroken

log = structlog.get_logger(__name__)

Reply = expert_pb2.ExpertReply


class ExpertService(expert_pb2_grpc.ExpertServicer):
    """The Expert service over one Holding and one Batcher."""

    def __init__(
        self,
        holding: Holding,
        batcher: Batcher,
        pairs: Pairs | None = None,
        wire: torch.dtype | None = None,
        max_sessions: int = 128,
    ) -> None:
        """`wire`: what rows come in, the model's dtype unless given. Without `pairs` all payload is in the messages."""
        self.answered = self.refused = 0  # calls, whatever the answer; calls with another answer than OK
        self.over_pair = 0  # calls whose payload came over a pair
        self.broken: CheckpointError | None = None  # why a worker that holds nothing could load nothing
        self._sessions = Sessions(max_sessions)
        self._holding, self._batcher, self._pairs = holding, batcher, pairs
        experts = holding.experts
        self._expected = Expected(
            experts.num_layers, experts.num_ffn, experts.hidden, experts.dtype, wire or experts.dtype
        )

    @property
    def sessions(self) -> int:
        """Open ones."""
        return len(self._sessions)

    def Session(
        self, request_iterator: Iterator[expert_pb2.ExpertCall], context: grpc.ServicerContext
    ) -> Iterator[Reply]:
        if not self._sessions.enter(context):
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self.sessions} sessions are open")
        payloads = Payloads(self._pairs, self._expected.hidden, self._expected.wire)
        heard = False
        try:
            for call in request_iterator:
                if not heard:
                    heard = True
                    self._sessions.spoke(context)
                reply = self._reply(call, payloads)
                self.answered += 1
                self.refused += reply.status != Reply.OK
                self.over_pair += call.pair != 0
                yield reply
                payloads.settle()
        except PairBroken as error:
            _abort(context, grpc.StatusCode.UNAVAILABLE, error)
        finally:
            self._sessions.leave(context)
            payloads.close()

    def Pair(
        self, request_iterator: Iterator[expert_pb2.PairItem], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.PairItem]:
        if self._pairs is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this worker makes no pairs")
        yield from self._pairs.rendezvous(request_iterator, context)

    def Describe(
        self, request: expert_pb2.ExpertDescribeRequest, context: grpc.ServicerContext
    ) -> expert_pb2.ExpertDescription:
        holding = self._holding
        return expert_pb2.ExpertDescription(
            worker_id=holding.worker_id,
            boot_id=holding.boot_id,
            numerics_class=holding.numerics_class,
            epoch=holding.epoch,
            held=[placement_pb2.ExpertId(layer=layer, expert=expert) for layer, expert in sorted(holding.experts.held)],
            progress=self._batcher.counters.progress,
            draining=holding.draining,
        )

    def Prepare(self, request: expert_pb2.PrepareRequest, context: grpc.ServicerContext) -> expert_pb2.PrepareReply:
        wanted = [(id.layer, id.expert) for id in request.experts]
        try:
            with progress("loading experts") as report:
                digests = self._holding.prepare(request.epoch, wanted, report)
        except StaleTable as error:
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        except CheckpointError as error:
            if not self._holding.experts.held:
                self.broken = error
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        staging = self._holding.experts.staging
        rate = round(staging.gigabytes_per_second, 2)
        log.info("experts are ready", asked=len(wanted), bytes_since_start=staging.bytes, gigabytes_per_second=rate)
        pairs = zip(request.experts, digests, strict=True)
        return expert_pb2.PrepareReply(digests=[expert_pb2.GoldenDigest(id=id, digest=digest) for id, digest in pairs])

    def Commit(self, request: expert_pb2.CommitRequest, context: grpc.ServicerContext) -> expert_pb2.CommitReply:
        try:
            epoch, held = self._holding.commit(request.table)
        except (StaleTable, WrongTable) as error:
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        return expert_pb2.CommitReply(epoch=epoch, held=held)

    def _reply(self, call: expert_pb2.ExpertCall, payloads: Payloads) -> Reply:
        """The call's answer or refusal. Raises PairBroken."""
        holding = self._holding
        payload_N = payloads.take(call)
        if call.epoch < holding.epoch:
            return self._refusal(call, Reply.STALE_EPOCH, f"epoch {call.epoch} is below {holding.epoch}")
        try:
            y_PD = self._batcher.run(parse(call, payload_N, self._expected, time.monotonic()))
        except BadCall as error:
            return self._refusal(call, Reply.INVALID, str(error))
        except NotHeldError as error:
            return self._refusal(call, Reply.NOT_HELD, str(error))
        except DeadlinePassed as error:
            return self._refusal(call, Reply.DEADLINE_EXCEEDED, str(error))
        reply = Reply(call=call.call, epoch=holding.epoch, rows=len(y_PD))
        payloads.put(call, reply, y_PD)
        return reply

    def _refusal(self, call: expert_pb2.ExpertCall, status: Reply.Status.ValueType, message: str) -> Reply:
        return Reply(call=call.call, status=status, message=message, epoch=self._holding.epoch)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, error: Exception | str) -> NoReturn:
    context.abort(code, str(error))
    raise AssertionError("abort raises")
