"""The commands that README, docs, CONTRIBUTING and the Makefile name, and which of them the smoke tests run."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "k8s/README.md", "k8s/e2e/README.md", "bench/README.md"]
PROGRAMS = "make|caracal|python|torchrun|pip|pre-commit|helm|kubectl|kind|skopeo|ctr|curl|docker|git"
NOT_RUN = re.compile(r"<!-- not run by CI: (\S[^>]*) -->\s*\Z")

# A command that starts so is run by the smoke test of that name. The longest start that fits counts.
SMOKE = {
    "make up": "test_readme_in_order",
    "caracal up": "test_readme_in_order",
    "caracal up --record": "test_readme_in_order",
    "caracal verify": "test_readme_in_order",
    "caracal generate": "test_readme_in_order",
    "caracal chat": "test_readme_in_order",
    "caracal top": "test_readme_in_order",
    "caracal logs": "test_readme_in_order",
    "caracal bench serve": "test_readme_in_order",
    "caracal scale": "test_readme_in_order",
    "caracal status": "test_readme_in_order",
    "caracal status --numerics": "test_readme_in_order",
    "curl ROUTER/cluster": "test_readme_in_order",
    "python -m training.evaluate --url": "test_readme_in_order",
    "python -m training.agentic.bench": "test_readme_in_order",
    "python -m training.agentic": "test_rollouts_and_training_on_them",
    "python -m training.curriculum": "test_the_whole_curriculum",
    "python -m training.curriculum.search": "test_search_for_mixtures",
    "python -m training.curriculum.short_run": "test_a_short_run_has_the_bits_that_are_kept",
    "python -m training.evaluate --data": "test_the_whole_curriculum",
    "python -m training.evaluate --offline": "test_train_and_evaluate",
    "make train": "test_the_whole_curriculum",
    "python -m training.grow": "test_grow",
    "python -m training.experiments.transfer": "test_experiment_of_transfer",
    "python -m training.experiments.growth": "test_experiment_of_growth",
    "python -m training.mtp": "test_train_drafts_and_measure_them",
    "python -m training.mtp.acceptance": "test_train_drafts_and_measure_them",
    "torchrun --nproc-per-node 2 -m -- training": "test_train_on_two_ranks",
    "python -m training": "test_train_on_two_ranks",
    "python -m training --watch": "test_train_on_two_ranks",
    "python -m training.experiments.determinism": "test_experiments_about_bits",
    "python -m training.experiments.corruption": "test_experiments_about_bits",
    "python -m training.experiments.ulp": "test_experiments_about_bits",
    "python -m training.experiments.compute_budget": "test_experiments_of_training",
    "python -m training.experiments.token_kinds": "test_experiments_of_training",
    "python -m training.experiments.architecture": "test_experiments_of_training",
    "python -m training.experiments.stability": "test_experiments_of_training",
    "python -m training --metrics-port": "test_train_with_monitors",
    "caracal plan": "test_plan",
    "caracal plan --calibrate": "test_calibration_and_its_validation",
    "caracal status --plan": "test_plan",
    "python -m bench.planner": "test_planner_document",
    "python -m bench.planner.validate": "test_calibration_and_its_validation",
    "python -m bench.simulator": "test_simulator_documents",
    "python -m bench.simulator.validate": "test_simulator_beside_a_cluster",
    "python -m bench.simulator.speed": "test_simulator_and_its_studies",
    "python -m bench.studies": "test_simulator_and_its_studies",
    "python -m bench.studies.": "test_simulator_and_its_studies",
    "caracal key": "test_readme_in_order",
    "caracal settings": "test_generated_files_are_up_to_date",
    "make settings": "test_generated_files_are_up_to_date",
    "make metrics": "test_generated_files_are_up_to_date",
    "make models": "test_generated_files_are_up_to_date",
    "make chart": "test_generated_files_are_up_to_date",
    "make faults-page": "test_generated_files_are_up_to_date",
    "make proto": "test_generated_files_are_up_to_date",
    "make fmt": "test_generated_files_are_up_to_date",
    "make image": "test_image",
    "make lock": "test_supply_chain",
    "make audit": "test_supply_chain",
    "make bench": "test_bench",
    "caracal bench": "test_bench",
    "caracal bench suite": "test_bench",
    "python -m bench.http_clients": "test_bench_of_http_clients",
    "python -m bench.documents": "test_bench_documents",
    "python -m bench.kernels": "test_bench_of_kernels",
    "python -m bench.sweep": "test_bench_sweep",
    "python -m bench.long_context": "test_bench_of_long_contexts",
    "python -m bench.fp8_weights": "test_bench_of_fp8_weights",
    "python -m bench.sparse_attention": "test_bench_of_sparse_attention",
    "python -m bench.drafts": "test_bench_of_drafts",
    "python -m bench.prefix_cache": "test_bench_of_the_prefix_cache",
    "python -m bench.migration": "test_bench_of_migration",
    "python -m bench.restarts": "test_bench_of_restarts",
    "python -m bench.stalls": "test_bench_of_stalls",
    "python -m bench.fanout": "test_bench_of_fanout",
    "python -m bench.many_workers": "test_bench_of_many_workers",
    "python -m bench.control": "test_bench_of_the_control_plane",
    "python -m bench.control.soak": "test_soak_of_the_control_plane",
    "python -m bench.placement.straggler": "test_bench_of_placement",
    "python -m bench.placement": "test_bench_of_placement",
    "python -m bench.placement.recorded": "test_bench_of_placement",
    "python -m bench.gateway": "test_bench_of_the_gateway",
    "python -m bench.grammars": "test_bench_of_grammars",
    "python -m bench.checksums": "test_bench_of_checksums",
    "python -m bench.corruption": "test_bench_of_corruption",
    "python -m bench.shadow_cost": "test_bench_of_shadow_cost",
    "python -m bench.overload": "test_bench_of_overload",
    "make bench-gpu": "test_bench_gpu_dry",
    "python -m bench.gpu.tune": "test_bench_gpu_dry",
    "make simulation": "test_simulation_of_the_protocol",
    "make clean": "test_clean",
    "make test TESTS=": "test_one_test",
}
# Run by .ci/run or by other tests, or not at all.
ELSEWHERE = {
    "make check": ".ci/run calls it",
    "make test": ".ci/run calls it",
    "make test-fast": "`make test` calls it",
    "make browser": ".ci/run calls it where it may install packages",
    "make sanitize": "tests/native runs the same with fewer frames",
    "make faults": "test_schedules_of_faults",
    "make fuzz": "tests/security runs the same with fewer tries",
    "make smoke": ".ci/run calls it; it is these tests",
    "make compat": "installs a dozen packages; tests/compat/test_compat_rows.py runs a row of each kind",
    "make e2e-k8s": ".ci/run calls it where CARACAL_K8S_LAB names a cluster",
    "make .venv/.bench": "compiles llama.cpp for five minutes; `make bench` calls it",
    "make .venv/.dev": "every other target calls it",
    "make .venv/.promtool": ".ci/run calls it; it needs a Debian with apt's lists",
    "make PYTHON=": "the interpreter of the next machine",
    "caracal up --device cuda": "needs a GPU",
    "python -m training.rollouts": "tests/training/test_rollouts.py",
    "caracal fetch": "tests/weights/test_hub.py against servers that speak the hub's and S3's protocol",
    "caracal manifest": "tests/weights/test_slices.py, tests/weights/test_remote_manifest.py",
    "caracal prune": "tests/weights/test_prune.py",
    "caracal serve": "tests/cli/test_commands_on_a_cluster.py starts it",
    "caracal COMMAND --help": "tests/cli/test_help_and_exit_codes.py asks every command",
    "caracal --help": "tests/cli/test_help_and_exit_codes.py asks every command",
    "caracal --version": "tests/cli/test_help_and_exit_codes.py",
    "caracal --install-completion": "writes into the user's shell; tests/cli/test_help_and_exit_codes.py completes",
    "caracal --show-completion": "tests/cli/test_help_and_exit_codes.py",
    "caracal logs --context": "tests/cli/test_logs.py against an API server",
    "caracal status --context": "tests/cluster/test_kube.py against an API server, k8s/e2e on a cluster",
    "caracal scale expert=3 --context": "tests/cluster/test_kube.py against an API server, k8s/e2e on a cluster",
    "python -m services.": "`caracal up` starts each",
    "python -m bench.planner.socket_link": "tests/planner/test_socket_link.py",
    "pip install": "needs a package index",
    "pre-commit install": "the hooks are the first three lines of `make check`",
    "helm": "tests/chart renders the chart, k8s/e2e installs it",
    "kubectl": "needs a cluster: k8s/e2e",
    "kind": "needs kind",
    "skopeo": "needs a registry",
    "ctr": "needs a node",
}


def documents() -> list[Path]:
    found = [REPO / name for name in DOCUMENTS] + sorted((REPO / "docs").rglob("*.md"))
    return [path for path in found if path.exists()]


def commands(text: str) -> list[str]:
    """Returns the commands of a Markdown text: lines of indented or fenced shell blocks, and inline code.

    A block after a comment `<!-- not run by CI: reason -->` is left out.
    """
    found = []
    for block in re.finditer(
        r"(?:(?<=\n\n) {4}\S.*\n(?:(?: {4}.*)?\n)*)|(?:^```(?:bash|sh)\n(?:.*\n)*?```$)", text, re.M
    ):
        if not NOT_RUN.search(text[: block.start()]):
            found += [line.strip() for line in block[0].splitlines()]
    found += re.findall(r"`([^`\n]+)`", text)
    spelled = (re.sub(r"\s+#.*", "", line) for line in found)
    return [line for line in spelled if re.match(rf"(?:{PROGRAMS})\s+\S", line) and line not in ("caracal ...",)]


def targets() -> list[str]:
    """Returns the Makefile's phony targets as commands."""
    phony = re.search(r"^\.PHONY: (.*)$", (REPO / "Makefile").read_text(), re.M)
    assert phony
    return [f"make {target}" for target in phony[1].split()]


def entry_of(command: str) -> str | None:
    """Returns the longest start in `SMOKE` or `ELSEWHERE` that fits the command."""
    fitting = [
        start
        for start in [*SMOKE, *ELSEWHERE]
        if command.startswith(start) and (start[-1] in "=." or command[len(start) : len(start) + 1] in ("", " ", "="))
    ]
    return max(fitting, key=len, default=None)
