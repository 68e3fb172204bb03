"""`caracal settings`: every variable that the three roles read, from the settings classes themselves."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields

from rich import box
from rich.console import Console
from rich.table import Table

from services.attention_worker.settings import AttentionSettings
from services.certificates.settings import CertificateSettings
from services.cli.fitting_table import folded
from services.expert_worker.settings import ExpertSettings
from services.process.settings import PREFIX, Rule, ServiceSettings, Settings, WorkerSettings, rule_of
from services.process.tracing_variables import DOCUMENTED
from services.replicas.settings import ReplicaSettings
from services.router.settings import RouterSettings

GROUPS: tuple[tuple[str, type[Settings]], ...] = (
    ("All roles", ServiceSettings),
    ("Attention and expert workers", WorkerSettings),
    ("Router", RouterSettings),
    ("Attention worker", AttentionSettings),
    ("Expert worker", ExpertSettings),
    ("Certificates in Kubernetes: the chart's Job", CertificateSettings),
    ("First pods in Kubernetes: the chart's Job", ReplicaSettings),
)
# Read elsewhere than in a settings class: by the kernels when they are imported, and by the commands of `caracal`.
OTHERS = (
    (
        "CARACAL_KERNELS",
        "",
        "kernels of CPU tensors: avx512bf16, avx2, reference or triton (interpreted); empty = the best this CPU has",
    ),
    ("CARACAL_API_KEY", "", "the API key that `caracal` commands show a gateway; empty = none"),
    (
        "CARACAL_FETCH_CA",
        "",
        "file with further authorities, in PEM, whose certificates a hub, a bucket or a proxy on the way to it may show"
        " `caracal fetch`, `caracal manifest` and workers with slices; empty = only those of this machine",
    ),
    ("CARACAL_URL", "", "the gateway that `caracal` commands talk to; empty = the cluster running on this machine"),
)
FURTHER = (("Others", OTHERS), ("Traces: OpenTelemetry's own variables, of all roles", DOCUMENTED))
INTRO = """# Settings

Made by `caracal settings --markdown`; a test compares it with the code. Each is an environment variable; an empty one
counts as not set. A value that breaks a rule ends the process with one line that names the variable, and exit code 2.
`caracal up` has options for some (`caracal up --help`: `--kv-pages` for `CARACAL_KV_PAGES`) and gives the rest of its
environment to the workers, but sets CARACAL_ADVERTISE_HOST, CARACAL_THREADS and CARACAL_CORES itself, and CARACAL_HOST
only for its gateway: its workers listen on loopback. The chart's values are mapped to them in `k8s/templates/_env.tpl`.
"""


def own_fields(settings: type[Settings]) -> Iterator[Field[object]]:
    """The fields that a class adds to its base."""
    inherited = {each.name for base in settings.__mro__[1:] if issubclass(base, Settings) for each in fields(base)}
    return (each for each in fields(settings) if each.name not in inherited)


def rows(settings: type[Settings]) -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of a class's own fields."""
    return [
        (settings.label(each.name), _default(each.default), _meaning(rule_of(settings, each.name)))
        for each in own_fields(settings)
    ]


class UnknownSetting(ValueError):
    """No variable has that name. The message is one line."""


def groups() -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Every variable, its default and its meaning, by who reads it."""
    return [(title, rows(settings)) for title, settings in GROUPS] + [(title, list(rest)) for title, rest in FURTHER]


def names() -> list[str]:
    """The name of every variable."""
    return [name for _, entries in groups() for name, _, _ in entries]


def markdown() -> str:
    """Returns the text of docs/settings.md."""
    parts = [INTRO]
    for title, entries in groups():
        parts.append(f"\n## {title}\n\n| variable | default | meaning |\n|---|---|---|\n")
        parts += [f"| `{name}` | {f'`{default}`' if default else ''} | {text} |\n" for name, default, text in entries]
    return "".join(parts)


def show(wanted: Sequence[str]) -> None:
    """Prints the same as tables; with `wanted`, only those variables. Raises UnknownSetting."""
    console = Console()
    for title, entries in _chosen(wanted):
        table = Table(*folded("variable", "default", "meaning"), title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for entry in entries:
            table.add_row(*entry)
        console.print(table)


def show_json(wanted: Sequence[str]) -> None:
    """Prints the same as a list of objects. Raises UnknownSetting."""
    print(
        json.dumps(
            [
                {"name": name, "default": default, "meaning": meaning, "read_by": title}
                for title, entries in _chosen(wanted)
                for name, default, meaning in entries
            ]
        )
    )


def _chosen(wanted: Sequence[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    spelled = {_spelled(name) for name in wanted}
    if unknown := sorted(spelled - set(names())):
        close = difflib.get_close_matches(unknown[0], names(), n=3)
        raise UnknownSetting(
            f"there is no setting {unknown[0]}" + (f"; did you mean {', '.join(close)}?" if close else "")
        )
    chosen = [(title, [one for one in rows if not spelled or one[0] in spelled]) for title, rows in groups()]
    return [(title, rows) for title, rows in chosen if rows]


def _spelled(name: str) -> str:
    """CARACAL_MAX_RUNNING for it, or for max_running, --max-running."""
    upper = name.lstrip("-").replace("-", "_").upper()
    return upper if upper.startswith(PREFIX) else PREFIX + upper


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    return {True: "1", False: "0"}[value] if isinstance(value, bool) else str(value)


def _meaning(rule: Rule) -> str:
    bounds = [
        *([f"from {rule.minimum:g}"] if rule.minimum else []),
        *([f"to {rule.maximum:g}"] if rule.maximum is not None else []),
        *([f"above {rule.above:g}"] if rule.above is not None else []),
        *([f"a multiple of {rule.multiple_of}"] if rule.multiple_of else []),
        *([" or ".join(choice or "empty" for choice in rule.one_of)] if rule.one_of else []),
    ]
    return rule.help + (f" ({', '.join(bounds)})" if bounds else "")
