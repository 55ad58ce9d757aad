"""Objects of a session that lives: which of them can become part of a log, and which never will."""

from __future__ import annotations

from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.object_names import Made, ObjectNames, made_by
from bytemq.storage.objects.own_objects import Ownership, OwnObjects
from tests.unit.storage.cluster.cluster_bench import pid

ME, OTHER = 0xED6, 0xF00
P = pid(1)


class Bench:
    def __init__(self) -> None:
        self.names = ObjectNames(ME)
        self.own = OwnObjects(self.names)

    def made(self) -> str:
        return f"{directory_of(P)}{7:020d}-{self.names.mark()}.log"

    def is_past(self, name: str, ownership: Ownership | None) -> bool | None:
        return self.own.settled().is_past_publishing(name, directory_of(P), ownership)


def test_names__say_who_made_an_object_and_in_which_order() -> None:
    names = ObjectNames(0xC9)
    first, second = names.mark(), names.mark()
    assert made_by(f"topics/a/0/{0:020d}-{first}.log") == Made(0xC9, 1)
    assert made_by(f"@b/tables/events/a/0/{0:020d}-{second}-3.parquet") == Made(0xC9, 2)
    assert made_by("wal/0000000000000ed6/000000000001-00000000000000aa.flush") is None
    assert made_by("iceberg/events/a/00000001-c9-i.metadata.json") is None


def test_open_partition__what_was_made_before_it_was_opened_is_past_publishing() -> None:
    bench = Bench()
    before = bench.made()
    opening = bench.own.opening(P, 3)
    meanwhile = bench.made()
    bench.own.opened(P, opening)
    ownership = Ownership(3, ME)
    assert [bench.is_past(name, ownership) for name in (before, meanwhile, bench.made())] == [True, False, False]
    assert bench.is_past(f"{directory_of(P)}{7:020d}-{OTHER:x}-1.log", ownership) is False, "of somebody else"


def test_opening__tells_nothing_before_it_is_published_and_if_it_fails_not_before_somebody_else_has_opened() -> None:
    bench = Bench()
    bench.own.opening(P, 3)
    made = bench.made()
    assert bench.is_past(made, Ownership(2, OTHER)) is None
    assert bench.is_past(made, None) is None
    assert bench.is_past(made, Ownership(4, OTHER)) is True


def test_released_partition__is_told_of_when_somebody_else_has_opened_it() -> None:
    bench = Bench()
    bench.own.opened(P, bench.own.opening(P, 3))
    made = bench.made()
    bench.own.released(P)
    assert bench.is_past(made, Ownership(3, ME)) is None, "a transaction may be on its way"
    assert bench.is_past(made, Ownership(4, OTHER)) is True
    assert bench.is_past(made, None) is True, "deleted"


def test_release__during_an_opening_is_not_undone_by_its_end() -> None:
    bench = Bench()
    first = bench.own.opening(P, 3)
    bench.own.released(P)
    second = bench.own.opening(P, 4)
    made = bench.made()
    bench.own.opened(P, first)
    assert bench.is_past(made, Ownership(3, ME)) is None
    bench.own.opened(P, second)
    assert bench.is_past(made, Ownership(4, ME)) is False


def test_settled__says_nothing_of_what_is_made_afterwards() -> None:
    bench = Bench()
    settled = bench.own.settled()
    assert settled.is_past_publishing(bench.made(), directory_of(P), None) is False
