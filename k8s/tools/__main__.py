"""`python -m k8s.tools` writes all generated files of the chart; `--check` compares them and prints the differences."""

import argparse
import difflib
import sys
from pathlib import Path

from k8s.tools import dashboards, readme, render, schema
from k8s.tools.helm import HelmMissing
from k8s.tools.values import CHART


def generated() -> dict[Path, str]:
    boards = {CHART / "dashboards" / name: text for name, text in dashboards.render().items()}
    return {CHART / "values.schema.json": schema.render(), CHART / "README.md": readme.render(), **boards}


def rendered() -> dict[Path, str]:
    examples = {CHART / "examples" / f"rendered-{name}.yaml": render.example(name) for name in render.PROFILES}
    return examples | {CHART / "manifests" / "caracal.yaml": render.manifests()}


def _write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.write_text(text)


def differences(files: dict[Path, str]) -> list[str]:
    found: list[str] = []
    for path, text in files.items():
        name = str(path.relative_to(CHART.parent))
        old = path.read_text() if path.exists() else ""
        found += difflib.unified_diff(old.splitlines(True), text.splitlines(True), name, f"{name} (generated)", n=1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing, fail on a difference")
    check = parser.parse_args().check
    for generate in (generated, rendered):
        try:
            files = generate()
        except HelmMissing as missing:
            if not check:
                raise SystemExit(str(missing)) from None
            print(f"rendered examples not compared: {missing}")
            continue
        if not check:
            _write(files)
        elif found := differences(files):
            sys.stdout.writelines(found)
            raise SystemExit("generated files of the chart are out of date: run 'make chart' and review the change")
    print("the chart's schema, README and examples are up to date" if check else "written")


if __name__ == "__main__":
    main()
