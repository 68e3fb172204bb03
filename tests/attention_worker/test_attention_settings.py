"""AttentionSettings are read from the environment; a bad variable is named."""

from pathlib import Path

import pytest

from services.attention_worker.settings import AttentionSettings
from services.process.settings import InvalidSetting


def test_defaults_and_environment() -> None:
    settings = AttentionSettings.from_env(
        {"CARACAL_MODEL": "/m", "CARACAL_PAGE_SIZE": "32", "CARACAL_OVERLAP": "0", "PATH": "x"}
    )
    assert settings == AttentionSettings(model=Path("/m"), page_size=32, overlap=False)
    assert AttentionSettings.from_env({"CARACAL_MODEL": "/m", "CARACAL_PORT": ""}) == AttentionSettings(
        model=Path("/m")
    )


def test_sizes_of_a_step_follow_the_device_unless_they_are_given() -> None:
    cpu, gpu = (AttentionSettings(model=Path("/m"), device=device) for device in ("cpu", "cuda:1"))
    assert (cpu.step_tokens, cpu.max_itl_s) == (256, 0.2)
    assert (gpu.step_tokens, gpu.max_itl_s) == (4096, 0.1)
    for device in ("cpu", "cuda"):
        given = AttentionSettings(model=Path("/m"), device=device, max_batch_tokens=512, max_itl_ms=30)
        assert (given.step_tokens, given.max_itl_s) == (512, 0.03)
    AttentionSettings(model=Path("/m"), device="cuda", max_running=300)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CARACAL_MODEL", "", "CARACAL_MODEL is not set"),
        ("CARACAL_PORT", "http", "CARACAL_PORT is 'http': not a whole number"),
        ("CARACAL_PORT", "70000", "CARACAL_PORT is 70000: must be at most 65535"),
        ("CARACAL_PAGE_SIZE", "24", "CARACAL_PAGE_SIZE is 24: must be a multiple of 16"),
        ("CARACAL_KV_PAGES", "-1", "CARACAL_KV_PAGES is -1: must be at least 0"),
        ("CARACAL_MAX_RUNNING", "300", "CARACAL_MAX_RUNNING is 300: must not exceed CARACAL_MAX_BATCH_TOKENS"),
        ("CARACAL_MAX_BATCH_TOKENS", "-1", "CARACAL_MAX_BATCH_TOKENS is -1: must be at least 0"),
        ("CARACAL_KV_HOST_GB", "-1", "CARACAL_KV_HOST_GB is -1.0: must be at least 0"),
        ("CARACAL_PREFIX_CACHE", "on", "CARACAL_PREFIX_CACHE is 'on': must be 0 or 1"),
        ("CARACAL_MAX_ITL_MS", "-5", "CARACAL_MAX_ITL_MS is -5.0: must be at least 0"),
        ("CARACAL_DTYPE", "float16", "CARACAL_DTYPE is 'float16': must be bfloat16, float32 or empty"),
        ("CARACAL_OVERLAP", "yes", "CARACAL_OVERLAP is 'yes': must be 0 or 1"),
        ("CARACAL_LINK", "rdma", "CARACAL_LINK is 'rdma': must be grpc, nccl, native or empty"),
        ("CARACAL_DISPATCH_DTYPE", "int8", "CARACAL_DISPATCH_DTYPE is 'int8': must be fp8 or empty"),
        ("CARACAL_KV_DTYPE", "int8", "CARACAL_KV_DTYPE is 'int8': must be fp8 or empty"),
        ("CARACAL_DRAIN_TIMEOUT_S", "-1", "CARACAL_DRAIN_TIMEOUT_S is -1.0: must be at least 0"),
        ("CARACAL_EXPERT_WAIT_S", "nan", "CARACAL_EXPERT_WAIT_S is nan: must be a finite number"),
        ("CARACAL_WORKER_ID", "a\udcff", "^CARACAL_WORKER_ID is 'a\\\\udcff': not UTF-8$"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        AttentionSettings.from_env({"CARACAL_MODEL": "/m", name: value})


def test_host_memory_is_for_cached_pages_only() -> None:
    given = {"CARACAL_MODEL": "/m", "CARACAL_KV_HOST_GB": "2.5"}
    assert AttentionSettings.from_env(given).kv_host_gb == 2.5
    with pytest.raises(InvalidSetting, match=r"CARACAL_KV_HOST_GB is 2\.5: needs CARACAL_PREFIX_CACHE"):
        AttentionSettings.from_env(given | {"CARACAL_PREFIX_CACHE": "0"})
