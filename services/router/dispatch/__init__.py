"""Expert dispatch, linked into attention workers: gate, zero experts, send, combine, retry."""
