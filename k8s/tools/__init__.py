"""Generates the chart's schema, README table, dashboards and rendered examples; `make check` compares them."""
