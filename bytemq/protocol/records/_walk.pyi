from collections.abc import Callable

from bytemq.protocol.records.walk_pure import Buffer, KeyValue, Parsed

def walk(
    data: Buffer, count: int, base_timestamp: int, require_keys: bool
) -> tuple[int, int, int, int, bool, int, int]: ...
def find(
    data: Buffer, count: int, base_timestamp: int, least_timestamp: int, least_delta: int
) -> tuple[int, tuple[int, int] | None]: ...
def parse(data: Buffer, position: int, most: int) -> tuple[int, int, list[Parsed]]: ...
def plain_records(data: Buffer, position: int) -> tuple[int, int, list[KeyValue]]: ...
def fold(
    data: Buffer,
    position: int,
    tables: dict[bytes, dict[int, bytes]],
    least_bytes: int,
    highest_version: int,
    other: Callable[[bytes | None, bytes | None], None],
) -> tuple[int, int, int, int]: ...
