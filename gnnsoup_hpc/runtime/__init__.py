"""The process and the cluster: ranks, signals, logging, measurement, leases, paths."""
