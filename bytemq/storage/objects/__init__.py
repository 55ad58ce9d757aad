"""Logs on a store that brokers share: one object a flush, committed by metadata."""
