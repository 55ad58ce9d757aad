from collections.abc import Sequence

from bytemq.protocol.records.columns_pure import Buffer

def read(
    columns: tuple[tuple[int, bytes, int], ...],
    validity: Buffer | None,
    ends: Buffer,
    data: Buffer,
    first: int,
    rows: int,
) -> tuple[list[int], Sequence[tuple[int, bytes | None, bytes | None, bytes | None]]]: ...
