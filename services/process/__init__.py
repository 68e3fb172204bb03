"""What every process of a cluster needs: settings, startup and shutdown, logs, metrics, servers, child processes."""
