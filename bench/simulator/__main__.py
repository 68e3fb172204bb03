"""`python -m bench.simulator`: writes the tables of docs/simulator.md again, from the result files."""

from __future__ import annotations

from bench.simulator.document import DOCUMENT, filled


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    new = filled(text)
    if new != text:
        DOCUMENT.write_text(new, encoding="utf-8")
        print(f"{DOCUMENT.name} has new tables")


if __name__ == "__main__":
    main()
