"""The router service: gateway, request lifecycle, expert placement; `dispatch` is linked into attention workers."""
