"""What keeps the chart true: its schema, its README table and its rendered examples are made here and compared in `make check`."""
