"""Profiles of devices and links: where each figure is from, and one clear line for what none can be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.cli.planning.errors import BadPlan
from services.cli.planning.profiles import device, fields, link, names
from services.cli.planning.question import Question, machine_of
from services.planner.traffic import Slo, Traffic

SOURCE = re.compile(r"(published|measured here|fitted|assumed): \S.*")
WITHOUT_SOURCE = {"like", "sources", "platform"}
WHOLE = "memory_gb = 80\nmemory_gb_s = 3000\ntflops = { bf16 = 900 }\nprice_h = 2\n"


@pytest.mark.parametrize("kind", ["devices", "links"])
def test_every_figure_says_where_it_is_from(kind: str) -> None:
    for name in names(kind):
        given: dict[str, Any] = fields(kind, name)
        sources = given["sources"]
        assert set(sources) == set(given) - WITHOUT_SOURCE, name
        for field, source in sources.items():
            assert SOURCE.fullmatch(source), f"{name}.{field}: {source}"


def test_what_is_measured_here_names_a_file() -> None:
    repository = Path(__file__).resolve().parents[2]
    for kind in ("devices", "links"):
        for name in names(kind):
            for source in fields(kind, name)["sources"].values():
                if source.startswith("measured here: "):
                    assert (repository / source.removeprefix("measured here: ").partition(",")[0]).is_file()


def test_a_device_is_like_another_but_for_what_it_says() -> None:
    h800, h200 = device("h800"), device("h200")
    assert h200.flops == h800.flops
    assert h200.factors == h800.factors
    assert h200.sources["factors"] == "taken from h800"
    assert (h200.memory_bytes, h200.memory_bytes_s) == (141e9, 4.8e12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('like = "nope"\n', "no device that x could be like is named 'nope'; the nearest is"),
        ('like = "x"\n', "`like` leads from x to x, in a circle"),
        ("like = 3\n", "device x: like is 3; it wants a text"),
        (
            WHOLE.replace("memory_gb = 80\n", ""),
            "device x has no memory_gb: it wants a number from 0.001 to 100000, GB",
        ),
        (WHOLE.replace("memory_gb_s = 3000\n", ""), "device x has no memory_gb_s"),
        (WHOLE.replace("tflops = { bf16 = 900 }\n", ""), "device x has no tflops"),
        (WHOLE.replace("3000", "0"), "device x: memory_gb_s is 0; it wants a number from"),
        (WHOLE.replace("3000", "-1"), "device x: memory_gb_s is -1"),
        (WHOLE.replace("3000", '"fast"'), "device x: memory_gb_s is 'fast'"),
        (WHOLE.replace("3000", "true"), "device x: memory_gb_s is True"),
        (WHOLE.replace("3000", "nan"), "device x: memory_gb_s is nan"),
        (WHOLE.replace("3000", "inf"), "device x: memory_gb_s is inf"),
        (WHOLE.replace("{ bf16 = 900 }", "{}"), "device x: tflops is {}"),
        (WHOLE.replace("{ bf16 = 900 }", "900"), "device x: tflops is 900"),
        (WHOLE.replace("bf16 = 900", "fp7 = 900"), "by dtype (fp32, bf16, fp8, nvfp4)"),
        (WHOLE.replace("bf16 = 900", "bf16 = 0"), "device x: tflops is"),
        (WHOLE.replace("price_h = 2", "price_h = -2"), "device x: price_h is -2"),
        (WHOLE + 'platform = "tpu"\n', "device x: platform is 'tpu'; it wants one of cuda, cpu, cann"),
        (WHOLE + "sources = { price_h = 3 }\n", "device x: sources is"),
        (WHOLE + "factors = 1\n", "device x: factors is 1; it wants a table"),
        (WHOLE + "factors = { efficiency = 0 }\n", "device x, factors: efficiency is 0"),
        (WHOLE + "factors = { overlap_loss = 1.5 }\n", "device x, factors: overlap_loss is 1.5"),
        (WHOLE + 'factors = { op_us = "1" }\n', "device x, factors: op_us is '1'"),
        (WHOLE + "factors = { magic = 1 }\n", "device x, factors has an unknown field: magic"),
        (WHOLE + "shared_memory = true\n", "device x has an unknown field: shared_memory"),
    ],
)
def test_a_device_that_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f"[devices.x]\n{text}")
    with pytest.raises(BadPlan) as raised:
        device("x", file)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_devices_that_are_like_each_other_are_named(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[devices.a]\nlike = "b"\n[devices.b]\nlike = "c"\n[devices.c]\nlike = "a"\n')
    with pytest.raises(BadPlan, match="device a: `like` leads from a to b to c to a, in a circle"):
        device("a", file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency_us = 3\n", "link x has no gb_s"),
        ("gb_s = 40\n", "link x has no latency_us"),
        ("gb_s = 0\nlatency_us = 3\n", "link x: gb_s is 0"),
        ("gb_s = 40\nlatency_us = -3\n", "link x: latency_us is -3"),
        ('gb_s = "40"\nlatency_us = 3\n', "link x: gb_s is '40'"),
        ("gb_s = 40\nlatency_us = 3\ndomain = 0\n", "link x: domain is 0; it wants a whole number"),
        ("gb_s = 40\nlatency_us = 3\ndomain = 8.5\n", "link x: domain is 8.5"),
        ("gb_s = 40\nlatency_us = 3\nlike = 'y'\n", "link x has an unknown field: like"),
    ],
)
def test_a_link_that_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f"[links.x]\n{text}")
    with pytest.raises(BadPlan) as raised:
        link("x", file)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices = 3\n", "devices is no table of tables"),
        ("[devices]\nx = 3\n", "devices is no table of tables"),
        ("[gadgets.x]\n", "has an unknown field: gadgets"),
        ("[devices.x\n", "is no profile"),
    ],
)
def test_a_file_that_is_no_profile_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(BadPlan, match=said):
        device("h800", file)


def test_a_device_without_a_price_asks_for_one(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f"[devices.x]\n{WHOLE.replace('price_h = 2', '')}")
    asked = Question(model="flash-chat", gpu="x", budget_h=10.0, traffic=Traffic(), slo=Slo(), profile=file)
    with pytest.raises(BadPlan, match="the profile of x has no price_h: give --price"):
        machine_of(asked)
    assert machine_of(replace(asked, price_h=3.0)).price_h == 3


def test_a_calibrated_profile_of_a_known_device_runs_what_that_one_runs(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f"[devices.cpu]\n{WHOLE}")
    assert device("cpu", file).platform == "cpu"
    assert device("cpu", file).memory_bytes_s == 3e12
