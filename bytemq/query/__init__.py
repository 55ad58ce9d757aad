"""SQL over topics: each query in a process of its own, which asks the broker for a cut and for what is not yet
Parquet."""
