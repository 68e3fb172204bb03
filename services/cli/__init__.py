"""The `caracal` command."""
