"""Runs in containers of one pod: a Redis, its replica, and a Sentinel that watches both. Standard library only.

Argument: master, replica or sentinel. The pod's address is in POD_IP; the master has port 6379, the replica 6380.
"""

import os
import sys
from pathlib import Path

HOST, MASTER, REPLICA, SENTINEL = os.environ["POD_IP"], 6379, 6380, 26379
CONFIG = Path("/tmp/sentinel.conf")
PLAIN = ["--save", "", "--appendonly", "no", "--dir", "/tmp", "--protected-mode", "no"]
FOLLOWS = ["--replicaof", HOST, str(MASTER), "--replica-announce-ip", HOST, "--repl-diskless-sync-delay", "0"]

role = sys.argv[1]
if role == "sentinel":
    watched = [f"monitor main {HOST} {MASTER} 1", "down-after-milliseconds main 1000", "failover-timeout main 5000"]
    lines = [f"port {SENTINEL}", "dir /tmp", "protected-mode no", *(f"sentinel {one}" for one in watched)]
    CONFIG.write_text("".join(f"{line}\n" for line in lines))
    command = ["redis-server", str(CONFIG), "--sentinel"]
else:
    port = MASTER if role == "master" else REPLICA
    command = ["redis-server", "--port", str(port), *PLAIN, *(FOLLOWS if role == "replica" else [])]
os.execvp(command[0], command)
