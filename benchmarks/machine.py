"""What this machine can do at the very moment: the limits that every other figure is to be read against."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

MIB = 1 << 20
SECONDS = 1.5


def disk_mb_s(folder: Path) -> float:
    """Appending 1 MiB and fdatasync, over and over, to one preallocated file."""
    block = os.urandom(MIB)
    path = folder / "limit"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(file, 0, 512 * MIB)
        written, started = 0, time.monotonic()
        while time.monotonic() - started < SECONDS:
            os.pwrite(file, block, written % (512 * MIB))
            os.fdatasync(file)
            written += MIB
        return written / 1e6 / (time.monotonic() - started)
    finally:
        os.close(file)
        path.unlink()


def fresh_pages_mb_s(folder: Path) -> float:
    """Writing 1 MiB after the other into the page cache of a new file: what every byte produced costs once."""
    block = os.urandom(MIB)
    path = folder / "limit"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        started = time.monotonic()
        for position in range(0, 512 * MIB, MIB):
            os.pwrite(file, block, position)
        return 512 * MIB / 1e6 / (time.monotonic() - started)
    finally:
        os.close(file)
        path.unlink()


def sync_ms(folder: Path) -> float:
    """Median of writing 4 KiB and fdatasync."""
    path = folder / "limit"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(file, 0, 64 * MIB)
        took = []
        ends = time.monotonic() + SECONDS / 2
        while time.monotonic() < ends:
            started = time.monotonic()
            os.pwrite(file, bytes(4096), len(took) % 16_000 * 4096)
            os.fdatasync(file)
            took.append(time.monotonic() - started)
        return sorted(took)[len(took) // 2] * 1e3
    finally:
        os.close(file)
        path.unlink()


def copy_mb_s() -> float:
    """memcpy between buffers larger than the caches."""
    source = bytearray(os.urandom(MIB) * 128)
    target = bytearray(len(source))
    copied, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS / 2:
        target[:] = source
        copied += len(source)
    return copied / 1e6 / (time.monotonic() - started)


def loopback_mb_s() -> float:
    """One TCP connection, 1 MiB writes, the reader in a thread (both sides are in system calls)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    received = 0

    def read() -> None:
        nonlocal received
        buffer = bytearray(MIB)
        while count := receiver.recv_into(buffer):
            received += count

    thread = threading.Thread(target=read)
    thread.start()
    block = bytes(MIB)
    started = time.monotonic()
    while time.monotonic() - started < SECONDS / 2:
        sender.sendall(block)
    sender.close()
    thread.join()
    receiver.close()
    return received / 1e6 / (time.monotonic() - started)


def limits(folder: Path) -> dict[str, float]:
    return {
        "disk write+fdatasync, MB/s": disk_mb_s(folder),
        "fdatasync of 4 KiB, ms": sync_ms(folder),
        "page cache, new pages, MB/s": fresh_pages_mb_s(folder),
        "memory copy, MB/s": copy_mb_s(),
        "loopback, MB/s": loopback_mb_s(),
    }
