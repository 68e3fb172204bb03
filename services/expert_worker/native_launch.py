"""What the native server calls for each launch: it has merged the calls; here the experts compute.

Legend: R rows and A (row, expert) assignments of all calls of the launch, D hidden, N bytes.
"""

from __future__ import annotations

import structlog
import torch
from caracal_proto import expert_pb2

from services.expert_worker.batcher import Batcher
from services.expert_worker.call_check import Expected
from services.expert_worker.experts import NotLoadedError
from services.transport.payload import unpack

log = structlog.get_logger(__name__)


class NativeLaunch:
    """Computes launches on the native server's thread. Its memory is the server's and lasts as long as the call."""

    def __init__(self, batcher: Batcher, expected: Expected) -> None:
        self._batcher, self._expected = batcher, expected
        self._threads = torch.get_num_threads()

    def __call__(
        self,
        layer: int,
        waited: list[float],
        rows: int,
        payload: memoryview | None,
        row: memoryview | None,
        expert: memoryview | None,
        out: memoryview | None,
    ) -> tuple[int | None, str] | None:
        """Writes the rows to `out`; or returns why not, with the reply's status, or None when no call is to blame.

        Without `payload` it only counts calls whose deadline has passed.
        """
        if payload is None or row is None or expert is None or out is None:
            self._batcher.count_late(waited)
            return None
        if self._threads:
            torch.set_num_threads(self._threads)  # OpenMP keeps this number per thread
            self._threads = 0
        expected = self._expected
        payload_N = torch.frombuffer(payload, dtype=torch.uint8)
        x_RD = unpack(payload_N, rows, expected.hidden, expected.dispatch_dtype, expected.dtype)
        row_A, expert_A = (torch.frombuffer(ids, dtype=torch.int32) for ids in (row, expert))
        try:
            y_AD = self._batcher.launch_merged(layer, x_RD, row_A, expert_A, waited)
        except NotLoadedError as error:
            return expert_pb2.ExpertReply.NOT_LOADED, str(error)
        except Exception:
            # The edge of the server's thread: the calls' sessions end, the next launch must run.
            log.exception("a launch failed", layer=layer)
            return None, "the launch failed"
        torch.frombuffer(out, dtype=expected.dtype).view(-1, expected.hidden).copy_(y_AD)
        return None
