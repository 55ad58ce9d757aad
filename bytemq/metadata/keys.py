"""Every key of the metadata store, in one place.

Owns: the names. Must not: know what the values look like (`values.py`; the storage's values are the storage's own).

    cluster/identity                       id of the cluster, made once
    cluster/feature-level                  which formats brokers may write, see `features.py`
    cluster/last-session                   written with each session key: its revision is the newest session's id
    cluster/storage                        the mark of the storage that the brokers share
    cluster/controller                     leased: who plans
    cluster/brokers/<id>                   leased: a broker's session
    cluster/topics/<name>                  id, number of partitions, configs
    cluster/assignments/<topic id>/<chunk> the planner's wishes: which broker should own
    cluster/owners/<topic id>/<chunk>      the owners' facts: which session owns, and the leader epoch
    cluster/prepared/<id>                  leased: up to which revision's wishes a broker is prepared
    cluster/doubts/<id>                    leased by who doubts: the session of a broker that shall end, see `doubts.py`
    cluster/configs/<type>/<name>          dynamic configs of brokers, groups, client metrics
    cluster/pools/<name>                   further stores of the cluster, see `pools.py`; "primary": the first one
    loads/<id>                             leased: what a broker measures, see `loads.py`
    table-builds/<broker>/<request>        leased: partitions that another broker wants to be tables now
    scheduler/moves                        the controller's last moves and why it made them
    allocations/producer-ids               first producer id that no broker has reserved
    copy/source                            while these metadata become those of a node's copy: which node's
    storage/...                            manifests, write-ahead log tails and columns of tables, by the storage

Everything under `cluster/` makes the `ClusterImage`. A chunk holds 256 partitions of one topic: a thousand partitions
change in a handful of transactions, a single one in a few KiB.
"""

from __future__ import annotations

from bytemq.types import PartitionId, TopicId, format_topic_id, parse_topic_id

CLUSTER = "cluster/"
IDENTITY = "cluster/identity"
FEATURE_LEVEL = "cluster/feature-level"
LAST_SESSION = "cluster/last-session"
STORAGE = "cluster/storage"
CONTROLLER = "cluster/controller"
BROKERS = "cluster/brokers/"
TOPICS = "cluster/topics/"
ASSIGNMENTS = "cluster/assignments/"
OWNERS = "cluster/owners/"
PREPARED = "cluster/prepared/"
DOUBTS = "cluster/doubts/"
CONFIGS = "cluster/configs/"
POOLS = "cluster/pools/"
LOADS = "loads/"
MOVES = "scheduler/moves"
PRODUCER_IDS = "allocations/producer-ids"
COPY_SOURCE = "copy/source"
TABLE_BUILDS = "table-builds/"
MANIFESTS = "storage/manifests/"
WAL_TAILS = "storage/wal/"
SESSION_LOGS = "storage/session-logs/"
TABLE_COLUMNS = "storage/table-columns/"

CHUNK_PARTITIONS = 256


def broker(broker_id: int) -> str:
    return f"{BROKERS}{broker_id}"


def prepared(broker_id: int) -> str:
    return f"{PREPARED}{broker_id}"


def doubt(broker_id: int) -> str:
    return f"{DOUBTS}{broker_id}"


def load(broker_id: int) -> str:
    return f"{LOADS}{broker_id}"


def table_builds(broker_id: int) -> str:
    """What the keys of all that a broker is asked to build begin with."""
    return f"{TABLE_BUILDS}{broker_id}/"


def topic(name: str) -> str:
    return TOPICS + name


def chunk_of(partition: int) -> int:
    return partition // CHUNK_PARTITIONS


def chunk_count(partitions: int) -> int:
    return -(-partitions // CHUNK_PARTITIONS)


def assignments(topic_id: TopicId, chunk: int) -> str:
    return f"{ASSIGNMENTS}{format_topic_id(topic_id)}/{chunk:05d}"


def owners(topic_id: TopicId, chunk: int) -> str:
    return f"{OWNERS}{format_topic_id(topic_id)}/{chunk:05d}"


def owners_of(topic_id: TopicId) -> str:
    """What the keys of all owners of a topic begin with."""
    return f"{OWNERS}{format_topic_id(topic_id)}/"


def config(kind: str, name: str) -> str:
    """`kind`: broker, group, client-metrics. `name` may hold any character; "" is the default of all brokers."""
    return f"{CONFIGS}{kind}/{name}"


def pool(name: str) -> str:
    return POOLS + name


def manifest(partition: PartitionId) -> str:
    return f"{MANIFESTS}{format_topic_id(partition.topic_id)}/{partition.index}"


def manifests(topic_id: TopicId) -> str:
    """What the keys of all manifests of a topic begin with."""
    return f"{MANIFESTS}{format_topic_id(topic_id)}/"


def partition_of_manifest(key: str) -> PartitionId:
    """The inverse of `manifest`. Raises ValueError."""
    topic_id, _, index = key[len(MANIFESTS) :].partition("/")
    return PartitionId(parse_topic_id(topic_id), int(index))


def table_columns(topic_id: TopicId) -> str:
    """The typed columns of a topic's table."""
    return TABLE_COLUMNS + format_topic_id(topic_id)


def wal_tail(session_id: int) -> str:
    return f"{WAL_TAILS}{session_id}"


def session_log(session_id: int) -> str:
    """The tail record of a session's write-ahead log on a shared storage."""
    return f"{SESSION_LOGS}{session_id}"


def session_of_log(key: str) -> int:
    """Of a key that `session_log` made."""
    return int(key.removeprefix(SESSION_LOGS))
