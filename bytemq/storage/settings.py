"""Settings of the storage: frozen data, validated by whoever reads the configuration. Owns defaults; does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024

Durability = Literal["fsync", "page-cache"]
"""What an acknowledgement means: on the device, or in the kernel (Kafka's own promise)."""


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """All sizes in bytes. The defaults suit a node with a few GB of memory."""

    wal_file_bytes: int = 64 * MIB
    """Size of one preallocated file of the write-ahead log (a single larger batch gets a file of its own)."""
    wal_flush_bytes: int = 8 * MIB
    """Most bytes of batches in one flush; one batch above it goes alone."""
    wal_flush_interval_ms: int = 100
    """On an object store: a flush that is not full starts no sooner than this after the one before it."""
    wal_flush_in_flight: int = 8
    """On an object store: most flushes on their way at the same time."""
    wal_memory_bytes: int = 512 * MIB
    """On an object store: how much of the newest part of the write-ahead log is kept in memory, for tailing readers."""
    wal_retained_flushes: int = 4096
    """On an object store: write-behind also starts above half of so many flushes."""
    coordinator_extents: int = 128
    """On an object store: a coordinator's log with more in the write-ahead log is written behind by itself. Whoever
    takes it over asks for that many objects before a client is answered."""
    storage_cache_bytes: int = 256 * MIB
    """Memory for what was read from an object store."""
    storage_scratch_bytes: int = 2048 * MIB
    """Disk space for what the cache has no memory for."""
    storage_upkeep_interval_ms: int = 5_000
    """How often what was inherited from other sessions is written behind, and garbage looked for."""
    storage_garbage_grace_ms: int = 600_000
    """How long objects that nothing names any more are kept for readers elsewhere."""
    recent_bytes: int = 16 * MIB
    """On a file system: memory for what was just committed and is read at the end of its log. Half of what the memory
    for requests keeps for further ones, which are received into what falls out of it."""
    wal_inline_bytes: int = 1 * MIB
    """With page-cache durability a flush up to this size is written on the loop, as long as that is quick."""
    bulk_bytes: int = 64 * 1024
    """With page-cache durability: so much of one log between two syncs is written straight to a segment to be."""
    bulk_share_bytes: int = 4_000
    """Of that, what has less in one flush is not: each costs a call of the system."""
    bulk_synced_bytes: int = 512 * 1024
    """With fsync, where another file costs another sync: so much in one flush is."""
    bulk_files: int = 1024
    """Most of such files that are being filled, each of them open."""
    bulk_segment_bytes: int = 4 * MIB
    """What is less than this when it is written behind is copied to the open segment: no small segments."""
    wal_retained_bytes: int = 1024 * MIB
    """Write-behind keeps the write-ahead log (whole files) below this."""
    wal_retained_extents: int = 100_000
    """Write-behind also starts above so many extents: each costs 30 bytes of memory and 3 us at recovery."""
    wal_sync_interval_ms: int = 1000
    """With page-cache durability: how often the file is synced in the background."""
    write_behind_step_bytes: int = 2 * MIB
    """Writing behind syncs so much at a time and rests for as long as that took, while there is room: what is
    acknowledged meanwhile shares the device with little at a time."""
    segment_bytes: int = 64 * MIB
    """Segments are sealed at this size or at the topic's `segment.bytes`, whichever is less."""
    chunk_bytes: int = 64 * 1024
    """Distance of the entries of a segment's sparse index, and about how much is walked to find an offset."""
    manifests_per_transaction: int = 100
    """etcd takes 128 operations in a transaction."""
    snapshot_inline_bytes: int = 8 * 1024
    """A producer snapshot above this becomes an object of its own, named by the manifest."""
    open_files: int = 1024
    """Most segment files kept open, with their sparse indexes."""
    reserve_bytes: int = 16 * MIB
    """Space held back so that a full disk still lets the node write behind, delete and record what it did."""
    restored_bytes: int = 256 * MIB
    """Scratch space for parts of Parquet files that consumers read, as segments again."""
    table_grace_ms: int = 300_000
    """How long a Parquet file that was replaced or has expired stays for those who still read it."""
    retry_delay_ms: int = 200
    """How long a write-ahead log that failed (no space, I/O error) refuses appends before it tries again."""
