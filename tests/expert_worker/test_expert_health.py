"""Health and reflection of an expert worker, as Kubernetes and grpcurl ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.expert_workers import Worker
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint


def test_health_and_reflection_answer(tmp_path: Path) -> None:
    worker = Worker(Checkpoint.open(make_checkpoint(tmp_path, dtype=torch.bfloat16)), torch.bfloat16, "w0")
    try:
        with grpc.insecure_channel(worker.endpoint.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="caracal.Expert")
            assert health.Check(request).status == health_pb2.HealthCheckResponse.NOT_SERVING
            worker.server.set_ready(True)
            assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
            listing = reflection_pb2.ServerReflectionRequest(list_services="")
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            replies = reflection.ServerReflectionInfo(iter([listing]))
            names = [service.name for service in next(iter(replies)).list_services_response.service]
            assert "caracal.Expert" in names
    finally:
        worker.stop()
