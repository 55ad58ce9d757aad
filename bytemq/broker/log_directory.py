"""The one log directory of a broker, as clients are told of it: a node's folder, or the storage that brokers share."""

from __future__ import annotations

import os

from bytemq.config.broker import BrokerConfig


def log_directory(config: BrokerConfig) -> str:
    """An absolute path, or the storage's URL."""
    return config.bytemq_storage or os.path.abspath(config.data_dir)
