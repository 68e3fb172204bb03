"""The metrics of an attention worker, and the size of its KV cache."""

from collections import Counter

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.engine_driver import Driver, limits
from support.fake_model import FakeModel
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.golden_check import GoldenCheck
from services.attention_worker.metrics import AttentionMetrics, LinkStats
from services.attention_worker.migration.stats import MigrationStats
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import ScrubCounters
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.nccl_link import P2PStats
from services.router.dispatch.shadow_calls import ShadowStats
from services.router.dispatch.stats import DispatchStats


def scrape(driver: Driver, dispatch: DispatchStats) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(
        AttentionMetrics(
            driver.engine,
            dispatch,
            LinkStats(P2PStats(calls=5, connected=2), NativeStats(calls=6, over_grpc=3)),
            lambda: 7,
            lambda: 0,
            MigrationStats(pages_sent=4, bytes_received=9, migrated=2, fallbacks=Counter({"slow": 3})),
            lambda: 8,
            ShadowStats(calls=11, differences=1),
            GoldenCheck(None, {}, 0),
            ScrubCounters(rounds=12),
        )
    )
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_and_gauges_follow_the_engine() -> None:
    driver = Driver(FakeModel(), sizes=limits(num_pages=10, max_running=4))
    dispatch = DispatchStats.of(2)
    dispatch.counted[1].choices, dispatch.counted[1].ffn_choices, dispatch.counted[1].exposed_s = 12, 9, 0.5
    dispatch.counted[0].bytes_sent = 640
    for length in (40, 30, 20):
        driver.submit([1] * length, Sampling(max_tokens=30))
    driver.submit([1] * 10, Sampling(max_tokens=150))
    for _ in range(3):
        driver.engine.step()
    during = scrape(driver, dispatch)
    assert during["caracal:num_requests_running"] + during["caracal:num_requests_waiting"] == 4
    assert 0 < during["caracal:kv_cache_usage_perc"] <= 1
    driver.finish()
    after = scrape(driver, dispatch)
    assert after["caracal:num_requests_running"] == after["caracal:kv_cache_usage_perc"] == 0
    assert after["caracal:prompt_tokens_total"] == 100
    assert after["caracal:generation_tokens_total"] == 240
    assert after["caracal:num_preemptions_total"] == driver.engine.scheduler.preemptions > 0
    assert after["caracal_engine_model_tokens_total"] > 336, "recomputed tokens count here"
    assert after["caracal_moe_choices_total,kind=zero,layer=1"] == 3
    assert after["caracal_moe_choices_total,kind=ffn,layer=1"] == 9
    assert after["caracal_moe_exposed_seconds_total,layer=1"] == 0.5
    assert after["caracal_moe_round_trip_seconds_total,layer=0"] == 0
    assert after["caracal_dispatch_bytes_total,direction=sent"] == 640
    assert after["caracal_kv_migrated_pages_total,direction=sent"] == 4
    assert after["caracal_kv_migrated_bytes_total,direction=received"] == 9
    assert after["caracal_kv_migrations_total"] == 2
    assert after["caracal_kv_migration_fallbacks_total,reason=slow"] == 3
    assert after["caracal_kv_migration_fallbacks_total,reason=damaged"] == 0
    assert (after["caracal_p2p_calls_total"], after["caracal_p2p_groups_connected_total"]) == (5, 2)
    assert (after["caracal_native_calls_total"], after["caracal_native_fallback_calls_total"]) == (6, 3)
    assert after["caracal_attention_epoch"] == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_is_two_latents_per_layer_and_token(
    dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("cache")))
    model = load_model(checkpoint, dtype, lambda done, total: None)
    driver = Driver(model, ReferenceDispatcher(checkpoint, dtype), limits(num_pages=7, page_size=32))
    latent = checkpoint.config.kv_lora_rank + checkpoint.config.qk_rope_head_dim
    assert driver.engine.cache.bytes == 2 * checkpoint.config.num_layers * latent * dtype.itemsize * 7 * 32
