"""`make bench-gpu`: the GPU kernels and one real-width slice of a model against what the card can do.

A section is a list of cases, a case gives rows of the table; `main` runs them within a time budget.
"""
