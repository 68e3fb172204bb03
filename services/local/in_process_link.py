"""A link to experts in the same process.

They run on the link's own thread and so overlap with attention, since the ops release the GIL.
Legend: R rows, A (row, expert) assignments, D hidden size.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from services.expert_worker.experts import Experts, NotLoadedError
from services.router.dispatch.errors import NotLoaded, WorkerUnavailable
from services.router.dispatch.links import ExpertOutput, ExpertRequest


class LocalLink:
    """Computes requests with `experts`; the other links have to give the same bits."""

    def __init__(self, experts: Experts) -> None:
        self._experts = experts
        self._threads = torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "local-link", initializer=self._begin)
        self._closed = False

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        if self._closed:
            failed: Future[ExpertOutput] = Future()
            failed.set_exception(WorkerUnavailable("the local experts are closed"))
            return failed
        return self._thread.submit(self._compute, request)

    def close(self) -> None:
        self._closed = True
        self._thread.shutdown(wait=False)

    def _begin(self) -> None:
        torch.set_num_threads(self._threads)  # OpenMP keeps this number per thread

    def _compute(self, request: ExpertRequest) -> ExpertOutput:
        try:
            y_AD = self._experts.compute(request.layer, request.x_RD, request.row_A, request.expert_A)
        except NotLoadedError as error:
            raise NotLoaded(str(error), 0) from None
        return ExpertOutput.of(y_AD)
