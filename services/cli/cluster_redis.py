"""The Redis of a cluster that a command knows, opened with the cluster's key."""

from __future__ import annotations

import os
from pathlib import Path

from services.cli.run_state import NoCluster, RunState
from services.membership.redis import Membership
from services.security.cluster_key import BadKey, ClusterKey


def open_membership(state: RunState) -> Membership:
    """The key is the one that `caracal up` has written; of another cluster, the environment's. Raises NoCluster."""
    return Membership(state.redis_url, state.cluster, open_key(state))


def open_key(state: RunState) -> ClusterKey:
    """The same key. Raises NoCluster."""
    try:
        if state.key_file:
            return ClusterKey(file=Path(state.key_file))
        named = os.environ.get("CARACAL_CLUSTER_KEY_FILE", "")
        return ClusterKey(os.environ.get("CARACAL_CLUSTER_KEY", ""), Path(named) if named else None)
    except BadKey as error:
        raise NoCluster(f"the cluster key cannot be used: {error}") from None
