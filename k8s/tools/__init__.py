"""What keeps the chart true: its schema, README table and rendered examples are made here, compared in `make check`."""
