"""`python -m services.replicas`: starts the first pods of a new release's workloads, and ends.

Run again, it does nothing: a ConfigMap says which workloads have had their first number.
"""

from __future__ import annotations

from importlib.util import find_spec

from services.process.lifecycle import exit_with_error
from services.process.settings import InvalidSetting
from services.process.telemetry import configure_logging
from services.replicas.settings import ReplicaSettings


def main() -> None:
    try:
        settings = ReplicaSettings.from_env()
    except InvalidSetting as error:
        exit_with_error(str(error))
    if find_spec("kubernetes") is None:
        exit_with_error("no package kubernetes: pip install 'caracal[k8s]'")
    from services.replicas.workloads import Workloads, WorkloadUnavailable

    configure_logging("replicas", level=settings.log_level)
    try:
        workloads = Workloads.in_cluster(settings.config_map)
        for workload in settings.workloads:
            workloads.begin(workload)
    except WorkloadUnavailable as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
