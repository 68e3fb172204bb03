"""`python -m bench.planner`: writes the tables of docs/planner.md again."""

from __future__ import annotations

from bench.document_tables import write_again
from bench.planner.document import DOCUMENT, filled

if __name__ == "__main__":
    write_again(DOCUMENT, filled)
