"""Configs under Kafka's names: what exists, what is set, and typed views of it.

`BrokerConfig` and `TopicConfig` are what the rest of the program reads; `definitions` and `documentation` are for
DescribeConfigs. Nothing here knows the network, storage or time.
"""

from bytemq.config.broker import BrokerConfig
from bytemq.config.listeners import Endpoint
from bytemq.config.topic import TopicConfig
from bytemq.config.values import ConfigType, InvalidConfig

__all__ = ["BrokerConfig", "ConfigType", "Endpoint", "InvalidConfig", "TopicConfig"]
