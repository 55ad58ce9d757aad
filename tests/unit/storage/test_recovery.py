"""What recovery makes of write-ahead logs that are not as they were written."""

from __future__ import annotations

import pytest

from bytemq.errors import Corrupt, Invalid, Unavailable
from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch, marker_of, marker_word
from bytemq.storage.wal.format import ALIGNMENT, FLUSH_HEADER_BYTES, MAGIC, encode_head, shares_to_write
from bytemq.storage.wal.recovery import ChainState, FileWalk
from tests.unit.storage.bench import Bench, batch_at, content, pid


async def written(bench: Bench, count: int = 6, size_bytes: int = 300) -> list[bytes]:
    """So many flushes of one batch each, in one file; then the process dies."""
    await bench.start()
    log = await bench.log()
    batches = [await bench.write(log, b"%03d" % n * (size_bytes // 3)) for n in range(count)]
    await bench.kill()
    return batches


def flush_positions(bench: Bench) -> list[int]:
    data = bench.store.content(bench.names(".log")[0])
    found, at = [], data.find(MAGIC)
    while at >= 0:
        found.append(at)
        at = data.find(MAGIC, at + 1)
    return found


async def test_clean_stop__leaves_nothing_to_walk(bench: Bench) -> None:
    await bench.start()
    data = await bench.write(await bench.log(), b"value")
    await bench.stop()
    storage = await bench.start()
    assert storage.recovered_bytes == 0
    assert await content(await bench.log()) == data


async def test_kill__leaves_only_the_last_file_to_walk(bench: Bench) -> None:
    await bench.start()
    log = await bench.log()
    data = b""
    for _ in range(60):
        data += await bench.write(log, bytes(1000))
    files = len(bench.names(".log"))
    assert files >= 4
    await bench.kill()
    storage = await bench.start()
    assert 0 < storage.recovered_bytes <= 2 * 16 * 1024
    assert await content(await bench.log()) == data


@pytest.mark.parametrize("is_applied", [True, False])
async def test_lost_flush__stays_known_when_it_could_not_be_published_at_once(bench: Bench, is_applied: bool) -> None:
    batches = await written(bench)
    position = flush_positions(bench)[2]
    bench.store.content(bench.names(".log")[0])[position + 20] ^= 0x10
    storage = await bench.start()
    away = Unavailable("the outcome is unknown")
    setattr(bench.metadata, "fault_after" if is_applied else "fault", lambda: away)
    with pytest.raises(Unavailable):
        await bench.log()
    bench.metadata.fault = bench.metadata.fault_after = None
    log = await bench.log()
    for _ in range(2):
        assert b"".join((await log.read(0, 1000, 6)).buffers) == b"".join(batches[:2])
        with pytest.raises(Corrupt, match="lost"):
            await log.read(2, 1000, 6)
        assert b"".join((await log.read(3, 1000, 6)).buffers) == b"".join(batches[3:5])
        await storage.checkpoint()
    assert log.manifest.holes == ((2, 2),)


@pytest.mark.parametrize("cut", ["header", "index", "payload", "zeros"])
async def test_torn_tail__is_dropped_and_the_prefix_kept(bench: Bench, cut: str) -> None:
    batches = await written(bench)
    position = flush_positions(bench)[-1]
    file = bench.store.content(bench.names(".log")[0])
    if cut == "zeros":
        file[position:] = bytes(len(file) - position)
    else:
        at = {"header": 20, "index": FLUSH_HEADER_BYTES + 30, "payload": FLUSH_HEADER_BYTES + 300}[cut]
        file[position + at] ^= 0x10
    await bench.start()
    log = await bench.log()
    assert await content(log) == b"".join(batches[:-1])
    assert log.recovered is not None
    assert [header.base_offset for header in log.recovered.headers] == [0, 1, 2, 3, 4]
    new = await bench.write(log, b"the offset is given out again")
    await bench.kill()
    await bench.start()
    assert await content(await bench.log()) == b"".join([*batches[:-1], new])


@pytest.mark.parametrize("at", range(0, FLUSH_HEADER_BYTES + 140, 7))
async def test_flipped_bit_in_a_head_in_the_middle__is_reported_and_never_skipped_in_silence(
    bench: Bench, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    batches = await written(bench)
    file = bench.store.content(bench.names(".log")[0])
    file[flush_positions(bench)[2] + at] ^= 0x04
    await bench.start()
    log = await bench.log()
    assert "damaged" in caplog.text
    assert log.end_offset == 6, "nothing else is lost"
    read = await log.read(0, 100_000, 6)
    assert b"".join(read.buffers) == b"".join(batches[:2]), "a read ends before the damage"
    with pytest.raises(Corrupt):
        await log.read(2, 100_000, 6)
    read = await log.read(3, 100_000, 6)
    assert b"".join(read.buffers) == b"".join(batches[3:])


@pytest.mark.parametrize("at", range(0, 360, 11))
async def test_flipped_bit_in_a_payload_in_the_middle__is_never_served(bench: Bench, at: int) -> None:
    batches = await written(bench)
    bench.store.content(bench.names(".log")[0])[flush_positions(bench)[2] - 8 - at] ^= 0x80
    storage = await bench.start()
    log = await bench.log()
    for _ in ("from the write-ahead log", "from a segment"):
        for offset, batch in enumerate(batches):
            if offset == 1:
                with pytest.raises(Corrupt):
                    await log.read(1, 1, 6)
            else:
                assert b"".join((await log.read(offset, 1, 6)).buffers) == batch
        await storage.checkpoint()


@pytest.mark.parametrize("indexed", [True, False])
async def test_missing_file_in_the_middle__is_reported_and_what_follows_is_kept(
    bench: Bench, indexed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.start()
    log = await bench.log()
    batches = [await bench.write(log, b"%04d" % n * 250) for n in range(60)]
    await bench.kill()
    names = bench.names(".log")
    lost = names[1]
    await bench.store.delete([lost, *([] if indexed else [name.replace(".log", ".index") for name in names])])
    await bench.start()
    log = await bench.log()
    assert "a file is missing" in caplog.text
    assert log.end_offset == 60
    found = []
    for offset, batch in enumerate(batches):
        try:
            read = await log.read(offset, 1, log.end_offset)
        except Corrupt:
            continue
        assert b"".join(read.buffers) == batch
        found.append(offset)
    gap = sorted(set(range(60)) - set(found))
    assert gap and gap == list(range(gap[0], gap[-1] + 1)), "one file's worth"


async def test_damaged_index_object__only_costs_a_walk(bench: Bench) -> None:
    await bench.start()
    data = await bench.write(await bench.log(), b"value", b"value")
    await bench.stop()
    bench.store.content(bench.names(".index")[0])[70] ^= 1
    storage = await bench.start()
    assert storage.recovered_bytes > 0
    assert await content(await bench.log()) == data


async def test_old_bytes_of_a_recycled_file__never_pass_for_new(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    storage = await bench.start()
    log = await bench.log()
    for _ in range(40):
        await bench.write(log, bytes(1000))
        if log.end_offset % 10 == 0:
            await storage.checkpoint()
    old = await content(log)
    new = await bench.write(log, b"in a recycled file")
    await bench.kill()
    await bench.start()
    log = await bench.log()
    assert (log.end_offset, await content(log)) == (41, old + new)
    assert "damaged" not in caplog.text, "a log whose beginning was released is whole"


def made_up_by_a_client(session_id: int) -> bytes:
    """A record's value that looks like a flush of that session, wherever it comes to be in a file: as if offsets of
    another partition had been acknowledged, and nothing before it could be missing.
    """
    shares = shares_to_write(pid(2), [batch_at(0)], 1000)
    head, _ = encode_head(session_id, 1 << 63, 1 << 63, 7, shares)
    return b"".join(head + bytes(-len(head) % ALIGNMENT + 1) for _ in range(ALIGNMENT))


async def test_torn_tail__with_a_flush_that_a_client_made_up_is_a_torn_tail(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.start(first_sequence=1 << 61)
    log, other = await bench.log(), await bench.log(2)
    data = await bench.write(log, b"acknowledged")
    await bench.write(log, made_up_by_a_client(bench.session))
    await bench.kill()
    bench.store.content(bench.names(".log")[0])[flush_positions(bench)[1] + 20] ^= 0x10
    await bench.start()
    log, other = await bench.log(), await bench.log(2)
    assert (await content(log), other.end_offset, "damaged" in caplog.text) == (data, 0, False)


async def test_recycled_file__with_a_flush_that_a_client_made_up_has_nothing_of_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await bench.start(first_sequence=1 << 61)
    log, other = await bench.log(), await bench.log(2)
    made_up = made_up_by_a_client(bench.session)
    for _ in range(40):
        await bench.write(log, made_up)
        if log.end_offset % 10 == 0:
            await storage.checkpoint()
    await bench.write(log, b"in a recycled file")
    newest = max(bench.names(".log"))
    assert bench.store.content(newest).rfind(made_up) > bench.store.content(newest).find(b"in a recycled file")
    await bench.kill()
    await bench.start()
    log, other = await bench.log(), await bench.log(2)
    assert (log.end_offset, other.end_offset, "damaged" in caplog.text) == (41, 0, False)


async def test_search__reads_nothing_but_headers_of_flushes_that_a_client_made_up(bench: Bench) -> None:
    head, _ = encode_head(1, 1 << 63, 1 << 63, 7, [])
    made_up = head[:40] + (200_000).to_bytes(4, "big") + head[44:]  # the size of its index
    file = await bench.store.create_append("wal/file", size_bytes=0, zeroed=False)
    await file.write([made_up * 5_000], 0, sync=True)
    read_bytes, read = 0, file.read

    async def counted(position: int, size_bytes: int) -> memoryview:
        nonlocal read_bytes
        data = await read(position, size_bytes)
        read_bytes += len(data)
        return data

    file.read = counted  # type: ignore[method-assign]
    assert await FileWalk(file, 1, ChainState(1 << 61, 0)).search(0) is None
    assert read_bytes < 10 * len(made_up) * 5_000


async def test_session_id__must_be_new(bench: Bench) -> None:
    await bench.start()
    await bench.kill()
    bench.session -= 1
    with pytest.raises(Invalid):
        await bench.start()
    bench.storage = None


async def test_recovered__has_every_header_after_the_snapshot_with_the_checksum_as_sent(bench: Bench) -> None:
    storage = await bench.start()
    log = await bench.log()
    await bench.write(log, b"0", b"1")
    await storage.checkpoint()  # no snapshot source: the headers have to come from the segment
    batches = bench.append(log, b"2", b"3")
    batches[0].sent_crc = 77
    await bench.settle()
    await bench.kill()
    await bench.start()
    recovered = (await bench.log()).recovered
    assert recovered is not None
    assert [header.base_offset for header in recovered.headers] == [0, 1, 2, 3]
    assert recovered.headers[2].sent_crc == 77


@pytest.mark.parametrize("marker", [EndTransactionMarker(True, 5), EndTransactionMarker(False, 5)])
@pytest.mark.parametrize("is_published", [False, True])
async def test_recovered__has_of_a_control_batch_what_it_says(
    bench: Bench, marker: EndTransactionMarker, is_published: bool
) -> None:
    storage = await bench.start()
    log = await bench.log()
    data = end_transaction_batch(marker, producer_id=1, producer_epoch=0, timestamp_ms=1000)
    batch = parse_header(memoryview(data))
    batch.place(log.staged_end, 1)
    batch.sent_crc = marker_word(marker)
    storage.append(log, [batch], lambda error: None)
    await bench.settle()
    if is_published:  # and gone from the write-ahead log
        for _ in range(60):
            await bench.write(log, bytes(1000))
        await storage.checkpoint()
    await bench.kill()
    await bench.start()
    recovered = (await bench.log()).recovered
    assert recovered is not None
    assert [marker_of(header.sent_crc) for header in recovered.headers if header.is_control] == [marker]


async def test_ten_thousand_idle_logs__are_small() -> None:
    import tracemalloc

    from tests.unit.storage.bench import pid

    bench = Bench()
    storage = await bench.start()
    count = 300
    for number in range(count):
        await storage.open_log(pid(number), 1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count, 2 * count):
        (await storage.open_log(pid(number), 1)).recovered = None
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await bench.stop()
    metadata_bytes = 600  # what the metadata in memory keep of each
    assert grown / count < 2048 + metadata_bytes
