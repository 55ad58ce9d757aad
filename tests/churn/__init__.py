"""An hour of everything that makes objects and lets them go, on a cluster over real etcd and MinIO, and then an audit:
`make churn`.

Topics come and go; records expire, are deleted, compacted, turned into Parquet and merged, committed and aborted;
partitions move; brokers are restarted, killed and paused. In the end nothing may be in the store that nothing refers
to, nothing may be missing, and consumers have what was acknowledged.
"""
