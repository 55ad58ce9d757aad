"""The transaction coordinator's state machine: one shard for each partition of `__transaction_state`. Pure."""
