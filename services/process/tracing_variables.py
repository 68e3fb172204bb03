"""OpenTelemetry's variables, OTEL_*: which of them turn tracing on, and which values cannot be used.

The SDK itself reads them, but takes a value that it cannot use for its default, with a warning at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import urlsplit

from services.process.settings import InvalidSetting

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
SAMPLERS = ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *RATIO_SAMPLERS)
CHOICES = {
    **dict.fromkeys(PROTOCOLS, ("grpc", "http/protobuf")),
    "OTEL_TRACES_SAMPLER": SAMPLERS,
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("gzip", "deflate", "none"),
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": ("gzip", "deflate", "none"),
}
ABOVE_ZERO = (
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
)
WHOLE = ABOVE_ZERO[2:]
# (variable, default, meaning), for docs/settings.md.
DOCUMENTED = (
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "URL of an OTLP collector; turns tracing on"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "how spans travel to it (grpc or http/protobuf)"),
    ("OTEL_TRACES_EXPORTER", "", "otlp turns tracing on at the default endpoint, none turns it off"),
    ("OTEL_TRACES_SAMPLER", "parentbased_always_on", f"which requests are traced ({' or '.join(SAMPLERS)})"),
    ("OTEL_TRACES_SAMPLER_ARG", "1", "share of traced requests, 0 to 1, for samplers with a ratio"),
    ("OTEL_SERVICE_NAME", "", "service.name of the spans; empty = caracal-router, caracal-attention, caracal-expert"),
    ("OTEL_RESOURCE_ATTRIBUTES", "", "further attributes of the process, like deployment.environment.name=test,a=b"),
    ("OTEL_SDK_DISABLED", "false", "true turns tracing off, whatever else is set"),
)


def otlp_protocol(environ: Mapping[str, str]) -> str | None:
    """Returns how spans are exported, grpc or http/protobuf; None when tracing is off. Raises InvalidSetting."""
    given = {name: text.strip() for name, text in environ.items() if name.startswith("OTEL_") and text.strip()}
    _check_one_of(given, "OTEL_SDK_DISABLED", ("true", "false"))
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    _check_one_of(given, "OTEL_TRACES_EXPORTER", ("otlp", "none"))
    exporter = given.get("OTEL_TRACES_EXPORTER", "").lower()
    if exporter == "none" or not (exporter or any(name in given for name in ENDPOINTS)):
        return None
    _check(given)
    return next((given[name].lower() for name in PROTOCOLS if name in given), "grpc")


def _check(given: Mapping[str, str]) -> None:
    for name, choices in CHOICES.items():
        _check_one_of(given, name, choices)
    for name in ENDPOINTS:
        if name in given and not _is_url(given[name]):
            raise InvalidSetting(f"{name} is {given[name]!r}: must be a URL, http://HOST:PORT or https://HOST:PORT")
    for name in ABOVE_ZERO:
        if name in given and not 0 < _number(given[name], whole=name in WHOLE) < math.inf:
            kind = "a whole number" if name in WHOLE else "a number"
            raise InvalidSetting(f"{name} is {given[name]!r}: must be {kind} above 0")
    argument = given.get("OTEL_TRACES_SAMPLER_ARG", "1")
    if given.get("OTEL_TRACES_SAMPLER", "").lower() in RATIO_SAMPLERS and not 0 <= _number(argument) <= 1:
        raise InvalidSetting(f"OTEL_TRACES_SAMPLER_ARG is {argument!r}: must be a number from 0 to 1")
    attributes = given.get("OTEL_RESOURCE_ATTRIBUTES", "a=b")
    if not all(name.strip() and equals for name, equals, _ in (item.partition("=") for item in attributes.split(","))):
        raise InvalidSetting(f"OTEL_RESOURCE_ATTRIBUTES is {attributes!r}: must be like KEY=VALUE,KEY=VALUE")
    propagators = given.get("OTEL_PROPAGATORS", "tracecontext")
    if not {each.strip() for each in propagators.split(",")} <= {"tracecontext", "baggage"}:
        raise InvalidSetting(f"OTEL_PROPAGATORS is {propagators!r}: must be tracecontext; baggage is not passed on")
    if "OTEL_CONFIG_FILE" in given:
        raise InvalidSetting("OTEL_CONFIG_FILE is set: not supported, set OTEL_* variables")


def _check_one_of(given: Mapping[str, str], name: str, choices: tuple[str, ...]) -> None:
    if name in given and given[name].lower() not in choices:
        raise InvalidSetting(f"{name} is {given[name]!r}: must be {', '.join(choices[:-1])} or {choices[-1]}")


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return False


def _number(text: str, *, whole: bool = False) -> float:
    """The number; NaN, which compares with nothing, when there is none."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return math.nan
