"""What every process of a cluster needs: settings, life cycle, logs, metrics, servers, children."""
