"""`make bench-gpu` measures the GPU kernels, and some layers of real width, against the ceilings of the GPU.

A section has cases, and a case returns rows of the table; `main` runs them within a time budget.
"""
