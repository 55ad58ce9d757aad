"""What every part stands on: clock, supervised tasks, metrics, memory budgets, logs. Knows nothing of Kafka."""
