"""bench/run's parts: the peers, how pairs are measured, and the cases."""
