"""A consumer in a process of its own that reads a topic from its beginning, as fast as it can, again and again.

    python -m benchmarks.rescan BOOTSTRAP TOPIC PARTITIONS [ZONE]

It stops when its input ends, and prints how many bytes of values it has read. As one more thread of a process that
measures, it would take the interpreter from the measuring.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from confluent_kafka import Consumer, TopicPartition


class Rescan:
    """Such a process, begun. `niceness` is added to our own: on few cores its consumer would take what brokers need."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, zone: str = "", niceness: int = 0) -> None:
        program = ["nice", "-n", str(niceness), sys.executable, "-m", "benchmarks.rescan"]
        command = [*program, bootstrap, topic, str(partitions), zone]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._began = time.monotonic()

    def stop(self) -> str:
        """What it has done."""
        seconds = time.monotonic() - self._began
        read, _ = self._process.communicate(timeout=60)
        return f"the rescan read {int(read) / 1e6 / seconds:.0f} MB/s"


def rescan(bootstrap: str, topic: str, partitions: int, zone: str, stopping: threading.Event) -> int:
    """Bytes of values."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "rescan",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "client.rack": zone,
            "log_level": 0,
        }
    )
    read_bytes = 0
    while not stopping.is_set():
        consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
        ended = 0
        while ended < partitions and not stopping.is_set():
            for message in consumer.consume(1000, 0.1):
                if message.error() is None:
                    read_bytes += len(message.value())
                else:
                    ended += 1
    consumer.close()
    return read_bytes


def main() -> None:
    bootstrap, topic, partitions, zone = sys.argv[1:5]
    stopping = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=wait, daemon=True).start()
    print(rescan(bootstrap, topic, int(partitions), zone, stopping))


if __name__ == "__main__":
    main()
