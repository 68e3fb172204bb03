"""The worker's gRPC service: checks calls, passes them to the batcher, and turns results and errors into replies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import numpy as np
import structlog
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc
from caracal_proto.loads import WorkerLoad, pack_load
from caracal_proto.placements import PlacementError, pack_experts, unpack_experts

from services.checkpoint.errors import CheckpointError, WeightsUnreachable
from services.expert_worker.batcher import Batcher, DeadlinePassed
from services.expert_worker.call_check import BadCall, DamagedCall, Expected, parse
from services.expert_worker.call_memory import ReplyMemory
from services.expert_worker.call_span import with_span
from services.expert_worker.experts import NotLoadedError
from services.expert_worker.load import ExpertLoad
from services.expert_worker.native_server import NativeServer, TooManySessions
from services.expert_worker.p2p_registry import P2PRegistry
from services.expert_worker.payloads import Payloads
from services.expert_worker.placement_state import CallerGone, EpochTaken, PlacementState, StaleTable, WrongTable
from services.expert_worker.sessions import Sessions
from services.process.grpc_server import abort_call
from services.process.telemetry import progress
from services.transport.p2p_group import P2PBroken

log = structlog.get_logger(__name__)

STANDS_STILL = "a launch stands still"

Reply = expert_pb2.ExpertReply


class ExpertService(expert_pb2_grpc.ExpertServicer):
    """The Expert service over one PlacementState and one Batcher."""

    def __init__(
        self,
        state: PlacementState,
        batcher: Batcher,
        p2p_registry: P2PRegistry | None = None,
        dispatch_dtype: torch.dtype | None = None,
        max_sessions: int = 128,
    ) -> None:
        """`dispatch_dtype` is the dtype in which rows are sent: the model's unless given.

        Without `p2p_registry` all payloads travel in the gRPC messages; without `native`, to be set before the first
        call, no native session can be opened.
        """
        self.native: NativeServer | None = None
        self.answered = self.rejected = 0  # calls with any reply; calls with another status than OK
        self.over_p2p = 0  # calls whose payload came over a P2P group
        self.stands_still = False  # the thread that launches does not go on
        self.broken: CheckpointError | None = None  # why a worker without experts could load none
        self._sessions = Sessions(max_sessions)
        self._state, self._batcher, self._p2p_registry = state, batcher, p2p_registry
        experts = state.experts
        self._expected = Expected(
            experts.num_layers,
            experts.num_ffn,
            experts.choices,
            experts.hidden,
            experts.dtype,
            dispatch_dtype or experts.dtype,
        )
        self._reply_memory = ReplyMemory()
        self._load = ExpertLoad(experts.num_layers, experts.num_ffn, time.monotonic())
        self._measuring = threading.Lock()

    @property
    def sessions(self) -> int:
        """The number of open sessions."""
        return len(self._sessions) + (self.native.sessions if self.native is not None else 0)

    @property
    def expected(self) -> Expected:
        """What calls must fit."""
        return self._expected

    @property
    def rejected_calls(self) -> int:
        """Calls answered with another status than OK, over either kind of session."""
        counters = self.native.counters if self.native is not None else None
        return self.rejected + (counters.rejected if counters is not None else 0)

    @property
    def native_calls(self) -> int:
        """Calls that were answered over native sessions."""
        counters = self.native.counters if self.native is not None else None
        return counters.answered if counters is not None else 0

    @property
    def launching(self) -> int | None:
        """The native id of the thread that runs a launch; None without one."""
        return self._batcher.launching or (self.native.launching if self.native is not None else None)

    def stand_still(self, still: bool) -> None:
        """The thread that launches stands still: every session ends, and none begins until it goes on again."""
        self.stands_still = still
        if still:
            self._sessions.cancel_all()
            if self.native is not None:
                self.native.end_sessions(STANDS_STILL)

    def measure_load(self) -> WorkerLoad:
        """The load until now. Any thread may ask for it, at any interval."""
        with self._measuring:
            if self.native is not None:
                self.native.take_counts()
            batcher = self._batcher
            return self._load.update(
                batcher.assigned_LF, self._state.experts.loaded_LE, batcher.counters.busy_s, time.monotonic()
            )

    def Session(
        self, request_iterator: Iterator[expert_pb2.ExpertCall], context: grpc.ServicerContext
    ) -> Iterator[Reply]:
        self._check_goes_on(context)
        if not self._sessions.enter(context):
            abort_call(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self.sessions} sessions are open")
        payloads = Payloads(self._p2p_registry, self._expected.hidden, self._expected.dispatch_dtype)
        first_seen, memory = False, self._reply_memory
        try:
            for call in request_iterator:
                if not first_seen:
                    first_seen = True
                    self._sessions.first_call_seen(context)
                share = memory.take(self._expected.reply_bytes(call), context.cancel)
                try:
                    reply = with_span(call, partial(self._reply, call, payloads))
                    self.answered += 1
                    self.rejected += reply.status != Reply.OK
                    self.over_p2p += call.p2p_group != 0
                    memory.sending(share)
                    yield reply
                    payloads.wait_sent()
                finally:
                    memory.give_back(share)
        except P2PBroken as error:
            abort_call(context, grpc.StatusCode.UNAVAILABLE, error)
        finally:
            self._sessions.leave(context)
            payloads.close()

    def Rendezvous(
        self, request_iterator: Iterator[expert_pb2.RendezvousItem], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.RendezvousItem]:
        if self._p2p_registry is None:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "this worker has no P2P groups: it has TLS and no CARACAL_ALLOW_PLAIN_P2P",
            )
        yield from self._p2p_registry.rendezvous(request_iterator, context)

    def Open(self, request: expert_pb2.OpenRequest, context: grpc.ServicerContext) -> expert_pb2.OpenReply:
        if self.native is None:
            abort_call(context, grpc.StatusCode.UNIMPLEMENTED, "this worker has no native sessions")
        self._check_goes_on(context)
        try:
            return self.native.open()
        except TooManySessions as error:
            abort_call(context, grpc.StatusCode.RESOURCE_EXHAUSTED, error)
        except OSError as error:
            abort_call(context, grpc.StatusCode.UNAVAILABLE, error)

    def Describe(
        self, request: expert_pb2.ExpertDescribeRequest, context: grpc.ServicerContext
    ) -> expert_pb2.ExpertDescription:
        self._check_goes_on(context)
        state = self._state
        return expert_pb2.ExpertDescription(
            worker_id=state.worker_id,
            boot_id=state.boot_id,
            numerics_class=state.numerics_class,
            epoch=state.epoch,
            loaded=pack_experts(*np.array(sorted(state.experts.loaded), np.int64).reshape(-1, 2).T),
            progress=self._batcher.counters.progress,
            draining=state.draining,
        )

    def Prepare(self, request: expert_pb2.PrepareRequest, context: grpc.ServicerContext) -> expert_pb2.PrepareReply:
        try:
            layer_N, expert_N = unpack_experts(request.experts)
            wanted = list(zip(layer_N.tolist(), expert_N.tolist(), strict=True))
            with progress("loading experts") as report:
                digests = self._state.prepare(request.epoch, wanted, partial(_report, report, context))
        except CallerGone as error:
            log.info("loading experts was cancelled", reason=str(error))
            abort_call(context, grpc.StatusCode.CANCELLED, error)
        except (StaleTable, WrongTable) as error:
            abort_call(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        except PlacementError as error:
            abort_call(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except WeightsUnreachable as error:
            abort_call(context, grpc.StatusCode.UNAVAILABLE, error)
        except CheckpointError as error:
            if not self._state.experts.loaded:
                self.broken = error
            abort_call(context, grpc.StatusCode.INVALID_ARGUMENT, error)
        staging = self._state.experts.staging
        rate = round(staging.gigabytes_per_second, 2)
        self._state.experts.keep_checksums()
        log.info("experts are ready", asked=len(wanted), bytes_since_start=staging.bytes, gigabytes_per_second=rate)
        return expert_pb2.PrepareReply(digests=np.array(digests, "<u8").tobytes())

    def Commit(self, request: expert_pb2.CommitRequest, context: grpc.ServicerContext) -> expert_pb2.CommitReply:
        try:
            epoch, loaded = self._state.commit(request.table)
        except EpochTaken as error:
            abort_call(context, grpc.StatusCode.ALREADY_EXISTS, error)
        except (StaleTable, WrongTable) as error:
            abort_call(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        return expert_pb2.CommitReply(epoch=epoch, loaded=loaded)

    def Tensors(self, request: expert_pb2.TensorsRequest, context: grpc.ServicerContext) -> expert_pb2.TensorsReply:
        try:
            found = self._state.experts.tensors(request.layer, request.expert)
        except (NotLoadedError, CheckpointError) as error:
            abort_call(context, grpc.StatusCode.NOT_FOUND, error)
        tensors = [expert_pb2.ExpertTensor(file=file, tensor=name, checksum=one) for file, name, one in found]
        return expert_pb2.TensorsReply(tensors=tensors)

    def Load(self, request: expert_pb2.LoadRequest, context: grpc.ServicerContext) -> expert_pb2.LoadReply:
        return pack_load(self.measure_load())

    def _check_goes_on(self, context: grpc.ServicerContext) -> None:
        if self.stands_still:
            abort_call(context, grpc.StatusCode.UNAVAILABLE, STANDS_STILL)

    def _reply(self, call: expert_pb2.ExpertCall, payloads: Payloads) -> Reply:
        """Computes the call's reply, or the one that rejects it. Raises P2PBroken."""
        state = self._state
        payload_N = payloads.take(call)
        if call.epoch < state.epoch:
            return self._rejection(call, Reply.STALE_EPOCH, f"epoch {call.epoch} is below {state.epoch}")
        try:
            y_AD = self._batcher.run(parse(call, payload_N, self._expected, time.monotonic()))
        except BadCall as error:
            return self._rejection(call, Reply.INVALID, str(error))
        except DamagedCall as error:
            return self._rejection(call, Reply.DAMAGED, str(error))
        except NotLoadedError as error:
            return self._rejection(call, Reply.NOT_LOADED, str(error))
        except DeadlinePassed as error:
            return self._rejection(call, Reply.DEADLINE_EXCEEDED, str(error))
        reply = Reply(call=call.call, epoch=state.epoch, rows=len(y_AD))
        payloads.put(call, reply, y_AD)
        return reply

    def _rejection(self, call: expert_pb2.ExpertCall, status: Reply.Status.ValueType, message: str) -> Reply:
        return Reply(call=call.call, status=status, message=message, epoch=self._state.epoch)


def _report(report: Callable[[int, int], None], context: grpc.ServicerContext, done: int, total: int) -> None:
    """Raises CallerGone when the caller of a Prepare has left: the leader has other plans, and the next one waits."""
    report(done, total)
    if not context.is_active():
        raise CallerGone(f"the caller left after {done} of {total} experts")
