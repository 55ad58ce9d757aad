"""A remote store in memory whose network and servers fail as real ones do.

`fault(operation, name)` chooses what goes wrong with one attempt:

- "refused": nothing happens, and the caller is told so (503);
- "lost": it happens, but the answer does not come;
- "twice": it happens, a library below sends it again, and the answer is that of the second time;
- "late": the caller gives up; it happens afterwards, when `settle` is called, unless the object was deleted meanwhile:
  what is deleted has had its time of grace, which outlasts any request;
- "cut": it happens, the answer breaks off;
- "torn": a PUT breaks off, and the store keeps what has come of it, as SeaweedFS does; of anything else the answer;
- "silent": nothing happens, and nobody ever says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.storage.stores.interface import ObjectInfo
from bytemq.storage.stores.remote import Head

Fault = Callable[[str, str], str | None]


class FailingDriver:
    """Implements `remote.Driver`. `keeps_tokens` False: as a store that knows no metadata of objects."""

    def __init__(self, *, keeps_tokens: bool = True, objects: dict[str, tuple[bytes, str]] | None = None) -> None:
        self.objects = objects if objects is not None else {}
        """(bytes, token) by name; may be shared by several drivers, as one store by several nodes."""
        self.fault: Fault = lambda operation, name: None
        self.keeps_tokens = keeps_tokens
        self.calls: list[tuple[str, str]] = []
        self.latency_s = 0.0
        self._late: list[tuple[str, Callable[[], object]]] = []

    async def _attempt(
        self, operation: str, name: str, act: Callable[[], object], half: Callable[[], object] | None = None
    ) -> object:
        self.calls.append((operation, name))
        await asyncio.sleep(self.latency_s)
        fault = self.fault(operation, name)
        if fault == "silent":
            await asyncio.Event().wait()
        if fault == "refused":
            raise Unavailable(f"{name}: 503 SlowDown")
        if fault == "late":
            self._late.append((name, act))
            raise Unavailable(f"{name}: no answer")
        result = half() if fault == "torn" and half is not None else act()
        if fault == "twice":
            result = act()
        await asyncio.sleep(0)
        if fault in ("lost", "cut", "torn"):
            raise Unavailable(f"{name}: connection lost")
        return result

    def settle(self) -> None:
        """What was under way when its caller gave up arrives."""
        late, self._late = self._late, []
        for _, act in late:
            try:
                act()
            except (Invalid, NotFound):
                continue

    async def prepare(self) -> None:
        await self._attempt("prepare", "", lambda: None)

    async def put(self, name: str, data: bytes | memoryview, token: str) -> None:
        def act() -> None:
            if name in self.objects:
                raise Invalid(f"{name} exists")
            self.objects[name] = (bytes(data), token)

        def half() -> None:
            self.objects.setdefault(name, (bytes(data[: len(data) // 2]), token))

        await self._attempt("put", name, act, half)

    async def get(self, name: str, position: int, size_bytes: int | None) -> bytes:
        def act() -> bytes:
            end = None if size_bytes is None else position + size_bytes
            return self._object(name)[0][position:end]

        data = await self._attempt("get", name, act)
        assert isinstance(data, bytes)
        return data

    async def head(self, name: str) -> Head:
        def act() -> Head:
            data, token = self._object(name)
            return Head(len(data), token if self.keeps_tokens else None)

        head = await self._attempt("head", name, act)
        assert isinstance(head, Head)
        return head

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        def act() -> list[ObjectInfo]:
            return [ObjectInfo(name, len(data)) for name, (data, _) in self.objects.items() if name.startswith(prefix)]

        found = await self._attempt("list", prefix, act)
        assert isinstance(found, list)
        return found

    async def delete(self, names: Sequence[str]) -> None:
        def act() -> None:
            for name in names:
                self.objects.pop(name, None)
            self._late = [(name, late) for name, late in self._late if name not in names]

        await self._attempt("delete", names[0], act)

    async def sign(self, name: str, seconds: int) -> str:
        return f"memory:{name}?seconds={seconds}"

    async def close(self) -> None:
        return None

    def _object(self, name: str) -> tuple[bytes, str]:
        if name not in self.objects:
            raise NotFound(name)
        return self.objects[name]
