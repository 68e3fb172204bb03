"""`python -m bench.simulator`: writes the tables of docs/simulator.md again, from the result files."""

from __future__ import annotations

from bench.document_tables import write_again
from bench.simulator.document import DOCUMENT, filled

if __name__ == "__main__":
    write_again(DOCUMENT, filled)
