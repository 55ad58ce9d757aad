"""Producers without transactions: unique values, each with the offset that it was acknowledged at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, Message, Producer

from tests.chaos.client import REQUEST_TIMEOUT_MS, Client, bury
from tests.chaos.cluster import LATE
from tests.simulation.broker.history import Sent, TopicPartition

if TYPE_CHECKING:
    from tests.chaos.run import Run

GIVES_UP_MS = 300_000
GAVE_UP = {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}


class PlainProducer(Client):
    """Writes bursts into its topic. Idempotent or not; what is not may be there twice."""

    def __init__(self, run: Run, name: str, topic: str, *, idempotent: bool, rate: float) -> None:
        """`rate`: values a second, about."""
        super().__init__(run, name, LATE)
        self.topic = topic
        self.idempotent = idempotent
        self.rate = rate
        self._number = 0

    def work(self) -> None:
        producer = Producer(
            self.config(
                enable_idempotence=self.idempotent,
                acks="all",
                linger_ms=5,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                message_timeout_ms=GIVES_UP_MS,
                max_in_flight_requests_per_connection=5,
            )
        )
        while not self.stopping:
            burst = self.random.randint(1, 12)
            for _ in range(burst):
                self._send(producer, (self.topic, self.random.randrange(self.world.partition_count)))
            producer.poll(0)
            self._check_alive()
            self.idle(burst / self.rate)
        while left := producer.flush(1.0):
            if time.monotonic() > self.world.give_up_at():
                raise self.history.broken(f"{self.name} does not get on: {left} are not acknowledged")
            if self.world.broken is not None:
                return
        self._check_alive()
        grave = [producer]
        del producer
        bury(grave)

    def _send(self, producer: Producer, partition: TopicPartition) -> None:
        self._number += 1
        batch = Sent(self.name, partition, [f"{self.name} {self._number}".encode()], once=self.idempotent)
        with self.history.told() as history:
            history.sending(batch)
        try:
            producer.produce(
                partition[0],
                batch.values[0],
                partition=partition[1],
                on_delivery=lambda error, message: self._delivered(batch, error, message),
            )
        except BufferError:
            producer.poll(0.1)

    def _delivered(self, batch: Sent, error: KafkaError | None, message: Message) -> None:
        if error is None:
            with self.history.told() as history:
                history.acknowledged(batch, message.offset())
            return
        self.met(f"{batch.values[0]!r}", error)
        if error.code() not in GAVE_UP:
            raise self.history.broken(f"{self.name}: {batch.values[0]!r} was refused: {error}")

    def _check_alive(self) -> None:
        """An idempotent producer that is told that its sequence is wrong is shut out for good."""
        if self.fatal is not None:
            raise self.history.broken(f"{self.name} was shut out: {self.fatal}")
