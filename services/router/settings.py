"""Settings of a router process, read from the environment; a bad one is refused by name."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class InvalidSetting(ValueError):
    """A setting is missing or wrong; the message begins with its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Each field is read from CARACAL_<FIELD>. Ports: 0 = any free one. Times in seconds."""

    model: Path
    redis_url: str = "redis://127.0.0.1:6379"
    cluster: str = "caracal"
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int = 8001
    advertise_host: str = ""
    worker_id: str = ""
    model_name: str = ""
    request_timeout_s: float = 600.0
    drain_timeout_s: float = 25.0
    replicas: int = 1  # expert workers that hold each expert, when there are so many
    events: str = ""  # kubernetes: refusals of the placement become Events; empty = they do not
    expert_set: str = ""  # name of the StatefulSet of expert workers, for such Events

    @property
    def served_name(self) -> str:
        return self.model_name or self.model.resolve().name

    @property
    def identity(self) -> str:
        return self.worker_id or socket.gethostname()

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> RouterSettings:
        """Raises InvalidSetting."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            name = f"CARACAL_{field.name.upper()}"
            if name in env and env[name] != "":
                values[field.name] = _cast(name, env[name], str(field.type))
        if "model" not in values:
            raise InvalidSetting("CARACAL_MODEL is required: the model's directory.")
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        if not self.model.is_dir():
            raise InvalidSetting(f"CARACAL_MODEL: {self.model} is not a directory.")
        for name in ("port", "grpc_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise InvalidSetting(f"CARACAL_{name.upper()} has value {getattr(self, name)}. Not a port.")
        if self.replicas < 1:
            raise InvalidSetting(f"CARACAL_REPLICAS has value {self.replicas}. Not a positive number.")
        if self.events not in ("", "kubernetes"):
            raise InvalidSetting(f"CARACAL_EVENTS has value {self.events!r}. Not kubernetes.")
        for name in ("request_timeout_s", "drain_timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidSetting(f"CARACAL_{name.upper()} has value {getattr(self, name)}. Not a positive number.")


def _cast(name: str, text: str, kind: str) -> Any:
    if kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            raise InvalidSetting(f"{name} has value {text!r}. Not a valid {kind}.") from None
    return Path(text) if kind == "Path" else text
