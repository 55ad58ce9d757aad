"""Scheduler: which broker should own which partition. It meets the brokers only through metadata."""
