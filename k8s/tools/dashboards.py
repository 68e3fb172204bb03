"""Generates the Grafana dashboards of the chart from the boards' panels."""

import json

from k8s.tools.boards import BOARDS, Board, Panel

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 12, 8


def render() -> dict[str, str]:
    """Returns the JSON of each dashboard by its file name in k8s/dashboards."""
    return {f"{board.name}.json": json.dumps(_board(board), indent=1) + "\n" for board in BOARDS}


def _board(board: Board) -> dict[str, object]:
    return {
        "uid": f"caracal-{board.name}",
        "title": f"Caracal / {board.title}",
        "tags": ["caracal"],
        "editable": True,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_variable("datasource"), _variable("namespace")]},
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }


def _variable(name: str) -> dict[str, object]:
    if name == "datasource":
        return {"name": name, "type": "datasource", "query": "prometheus", "label": "Data source"}
    query = "label_values(caracal_gateway_attention_workers, namespace)"
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": query,
        "refresh": 2,
        "label": "Namespace",
    }


def _panel(number: int, panel: Panel) -> dict[str, object]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": _DATASOURCE}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }
