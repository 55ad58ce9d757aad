"""The stores: the interface that everything durable goes through, and what it is on each kind of storage."""
