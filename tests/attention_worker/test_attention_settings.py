"""Settings come from the environment and are refused by name."""

from pathlib import Path

import pytest

from services.attention_worker.settings import InvalidSetting, Settings


def test_defaults_and_what_the_environment_says() -> None:
    settings = Settings.from_env(
        {"CARACAL_MODEL": "/m", "CARACAL_PAGE_SIZE": "32", "CARACAL_OVERLAP": "0", "PATH": "x"}
    )
    assert settings == Settings(model=Path("/m"), page_size=32, overlap=False)
    assert Settings.from_env({"CARACAL_MODEL": "/m", "CARACAL_PORT": ""}) == Settings(model=Path("/m"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CARACAL_MODEL", "", "CARACAL_MODEL is not set"),
        ("CARACAL_PORT", "http", "CARACAL_PORT is 'http': not a number"),
        ("CARACAL_PORT", "70000", "CARACAL_PORT is no port number"),
        ("CARACAL_PAGE_SIZE", "24", "CARACAL_PAGE_SIZE must be a multiple of 16"),
        ("CARACAL_KV_PAGES", "-1", "CARACAL_KV_PAGES must not be negative"),
        ("CARACAL_MAX_RUNNING", "300", "CARACAL_MAX_RUNNING must not exceed CARACAL_MAX_BATCH_TOKENS"),
        ("CARACAL_DTYPE", "float16", "CARACAL_DTYPE must be bfloat16 or float32"),
        ("CARACAL_OVERLAP", "yes", "CARACAL_OVERLAP is 'yes', it must be 0 or 1"),
        ("CARACAL_LINK", "rdma", "CARACAL_LINK must be grpc or nccl"),
        ("CARACAL_DISPATCH_DTYPE", "int8", "CARACAL_DISPATCH_DTYPE must be fp8 or empty"),
        ("CARACAL_DRAIN_TIMEOUT_S", "-1", "CARACAL_DRAIN_TIMEOUT_S must not be negative"),
        ("CARACAL_EXPERT_WAIT_S", "nan", "CARACAL_EXPERT_WAIT_S must not be negative"),
    ],
)
def test_a_bad_one_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Settings.from_env({"CARACAL_MODEL": "/m", name: value})
