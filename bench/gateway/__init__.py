"""What a router costs: CPU of a streamed token, streams on a core, latency that it adds."""
