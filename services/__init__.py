"""The application. Importing it decides for every process where logs go, how often garbage is looked for, and how gRPC
connects and polls."""

import gc
import os
import sys

import structlog

# New objects until the young are looked at, and rounds until older ones are. A worker's modules make some hundred
# thousand that stay: with Python's 700, 10 and 10 a good part of the time of their import is spent looking at them. A
# connection is made of some hundred: a profile of a flooded router shows the same there.
gc.set_threshold(20_000, 20, 50)

# Until `configure_logging` says more, log lines go to stderr: stdout is for what a process was started to print.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

# Decided before gRPC is imported. Threads that wait for a message poll the socket themselves instead of being woken by
# gRPC's event engine: with dispatch messages on two cores, a round trip takes 130 instead of 190 µs and a third less
# CPU on either side.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

# gRPC here only connects members of one cluster, which no proxy of the environment can reach: an empty grpc_proxy comes
# before http_proxy and https_proxy, while a no_proxy would have to name every peer.
os.environ["grpc_proxy"] = ""  # noqa: SIM112  gRPC reads it so
