"""The fixture `chart`, which caches renders. Without a helm binary its tests are skipped."""

import pytest
from support.chart_objects import Chart

from k8s.tools.helm import HelmMissing, find_helm


@pytest.fixture(scope="session")
def chart() -> Chart:
    try:
        return Chart(find_helm())
    except HelmMissing as missing:
        pytest.skip(str(missing))
