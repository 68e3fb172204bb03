"""No command in README, docs or the Makefile is one that nothing runs."""

from __future__ import annotations

import ast

from support.documented_commands import ELSEWHERE, REPO, SMOKE, commands, documents, entry_of, targets


def test_every_documented_command_is_run_somewhere() -> None:
    named = [(str(path.relative_to(REPO)), line) for path in documents() for line in commands(path.read_text())]
    named += [("Makefile", target) for target in targets()]
    assert len(named) > 60
    assert not [where for where in named if entry_of(where[1]) is None]


def test_the_smoke_tests_that_run_them_exist() -> None:
    trees = [ast.parse(path.read_text()) for path in (REPO / "tests" / "smoke").glob("test_*.py")]
    tests = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(SMOKE.values()) <= tests


def test_ci_calls_what_is_left_to_it() -> None:
    script = (REPO / ".ci" / "run").read_text()
    for command, where in ELSEWHERE.items():
        assert not where.startswith(".ci/run") or command in script


def test_commands_are_found_in_a_text() -> None:
    text = (
        "Run `make a`, not `x`:\n\n    make b X=1   # why\n    caracal c\n\nand\n\n```bash\nmake d\n```\n\n"
        "<!-- not run by CI: needs a cluster -->\n\n    make e\n\n"
        "<!-- not run by CI: it too -->\n\n```bash\nmake f\n```\n"
    )
    assert commands(text) == ["make b X=1", "caracal c", "make d", "make a"]
    assert entry_of("caracal status --numerics") == "caracal status --numerics"
    assert entry_of("caracal statuses") is None
