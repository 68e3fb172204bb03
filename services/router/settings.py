"""Settings of a router process."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.process.addresses import EVERYWHERE, bare
from services.process.settings import InvalidSetting, ServiceSettings, port_setting, setting
from services.router.console.steering import MIN_TOKEN_CHARS
from services.router.gateway.cors import parse_origins
from services.security.identity import ROUTER


@dataclass(frozen=True, kw_only=True)
class RouterSettings(ServiceSettings):
    """One router."""

    role = ROUTER

    port: int = port_setting("HTTP port", 8000)
    grpc_port: int = port_setting("gRPC port", 8001)
    admin_port: int = port_setting(
        "port of everything that the HTTP port has, and of /metrics, /load, /cluster and the console that scales, which"
        " it has not",
        8002,
    )
    admin_host: str = setting("address that the admin port listens on", "127.0.0.1")
    model_name: str = setting("the model's name in the API; empty = its directory's", "")
    generation_config: str = setting(
        "sampling defaults of the model's generation_config.json: auto = they hold for what a request leaves open;"
        " none = they do not. The ids that end an answer always count",
        "auto",
        one_of=("auto", "none"),
    )
    progress_timeout_s: float = setting(
        "seconds a request may go without progress: no token, and no part of its prompt computed", 600.0, above=0
    )
    queue_timeout_s: float = setting(
        "seconds a request may wait for a place of an attention worker before it gets a 503", 30.0, above=0
    )
    cold_start_s: float = setting(
        "seconds a new request waits for a first attention worker while there is none; /ready says yes meanwhile, so"
        " that requests come and count as waiting, by which an autoscaler may start one. 0 = requests wait until none"
        " has been there for 30 s, and get a 503 then",
        0.0,
        minimum=0,
        maximum=3600,
    )
    max_sequences: int = setting(
        "sequences, running and waiting, that this router takes on; more get a 429 or 503. 0 = by the workers' places,"
        " 5 for each and at least 512",
        0,
        minimum=0,
        maximum=1_000_000,
    )
    ready_probe_s: float = setting(
        "seconds without a token after which /ready has one generated, to know that answers come; before it first says"
        " yes it always has. 0 = only then",
        30.0,
        minimum=0,
    )
    drain_timeout_s: float = setting("seconds open streams may take to finish after SIGTERM", 25.0, above=0)
    replicas: int = setting(
        "expert workers that hold each expert, when there are so many; 0 = 2 where each worker has the capacity, and"
        " half of the memory that was free at its start, for its share of two of each, else 1",
        0,
        minimum=0,
        maximum=64,
    )
    redundant_experts: int = setting(
        "additional replicas of hot experts that each layer may have, where workers have room",
        0,
        minimum=0,
        maximum=4096,
    )
    rebalance_gb_per_minute: float = setting(
        "GB a minute that expert workers may read for experts that move, or get replicas, because of their load;"
        " 0 = none do",
        4.0,
        minimum=0,
        maximum=100_000,
    )
    api_keys_file: str = setting(
        "a TOML file of API keys, as `caracal key` makes them, read again when it changes; empty = nobody needs one",
        "",
    )
    cors_origins: str = setting(
        "origins of web pages that may call the API from a browser, like https://chat.example.org, with commas between;"
        " * = any; empty = none",
        "",
    )
    response_ttl_s: int = setting(
        "seconds that the responses of /v1/responses are stored in Redis, from which any router continues them;"
        " 0 = none are stored",
        86400,
        minimum=0,
        maximum=365 * 86400,
    )
    response_memory_mb: int = setting(
        "MB that stored responses may take in Redis; the oldest go first", 64, minimum=1, maximum=1_000_000
    )
    record: str = setting(
        "file to which every answer is written bit for bit, for `caracal verify`: with prompts, readable by its owner"
        " alone; empty = none",
        "",
    )
    record_mb: int = setting(
        "MB of that file at which it becomes FILE.1, and a new one is begun", 1024, minimum=1, maximum=1_000_000
    )
    record_files: int = setting("such files that are kept, with the newest", 4, minimum=1, maximum=1000)
    shadow_answers: float = setting(
        "share of the answers that are computed again afterwards, as prompts, at another attention worker, and compared"
        " bit for bit, while the workers have places to spare; 0 = none",
        0.01,
        minimum=0,
        maximum=1,
    )
    console: bool = setting("whether the web console is at /console", True)
    console_token: str = setting(
        "secret with which the console may change worker counts, where `caracal up` follows them; empty = it only"
        " watches",
        "",
    )
    console_scale_command: str = setting(
        "command that the console shows for changing worker counts, with ROLE and COUNT in it",
        "caracal scale ROLE=COUNT",
    )
    events: str = setting(
        "kubernetes: capacity shortages become Kubernetes Events; empty = they do not", "", one_of=("kubernetes", "")
    )
    expert_set: str = setting("name of the expert workers' StatefulSet, for such Events", "")
    lost_pods: str = setting(
        "label selector of the workers' pods, of which those of lost nodes are removed; empty = none are", ""
    )

    @property
    def served_name(self) -> str:
        return self.model_name or self.model.resolve().name

    @property
    def reachable_admin_host(self) -> str:
        """Where others reach the admin port."""
        return self.reachable_host if bare(self.admin_host) in EVERYWHERE else self.admin_host

    @property
    def origins(self) -> tuple[str, ...]:
        return parse_origins(self.cors_origins)

    def validate(self) -> None:
        super().validate()
        try:
            parse_origins(self.cors_origins)
        except ValueError as error:
            raise self.invalid("cors_origins", self.cors_origins, str(error)) from None
        if self.cold_start_s > self.progress_timeout_s:
            why = f"is more than {self.label('progress_timeout_s')}, {self.progress_timeout_s:g}, which ends the wait"
            raise self.invalid("cold_start_s", self.cold_start_s, why)
        if not {"ROLE", "COUNT"} <= set(re.findall("[A-Z]+", self.console_scale_command)):
            raise self.invalid("console_scale_command", self.console_scale_command, "lacks ROLE or COUNT")
        if 0 < len(self.console_token) < MIN_TOKEN_CHARS:
            raise InvalidSetting(f"{self.label('console_token')} is too short: at least {MIN_TOKEN_CHARS} characters")
        if not self.model.is_dir():
            raise self.invalid("model", self.model, "not a directory")
