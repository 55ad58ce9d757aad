"""The storages of several brokers in virtual time, over one object store and one metadata store that fail."""
