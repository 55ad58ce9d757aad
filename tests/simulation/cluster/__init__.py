"""Whole brokers over the storage that a cluster shares: `broker` and `cluster_storage` in one."""
