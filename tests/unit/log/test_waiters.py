"""Waiters: plain callbacks that may change the list while they are called."""

from bytemq.broker.log.waiters import Awaited, Waiters, register_with_all, unregister_from_all


def test_wake__calls_each_registered_callback_once_in_order() -> None:
    waiters: Waiters[str] = Waiters()
    calls: list[str] = []
    first, second = (lambda subject: calls.append("first " + subject)), (lambda subject: calls.append("second"))
    for callback in (first, second, first):
        waiters.register(callback)
    waiters.wake("p")
    assert calls == ["first p", "second"]


def test_wake__skips_who_was_unregistered_by_an_earlier_callback() -> None:
    waiters: Waiters[None] = Waiters()
    calls: list[str] = []

    def first(_: None) -> None:
        calls.append("first")
        waiters.unregister(first)
        waiters.unregister(second)

    def second(_: None) -> None:
        calls.append("second")

    waiters.register(first)
    waiters.register(second)
    waiters.wake(None)
    waiters.wake(None)
    assert calls == ["first"]
    assert waiters.count == 0


def test_wake__leaves_newcomers_for_the_next_time() -> None:
    waiters: Waiters[None] = Waiters()
    calls: list[str] = []
    waiters.register(lambda _: waiters.register(lambda _: calls.append("newcomer")))
    waiters.wake(None)
    assert calls == []
    waiters.wake(None)
    assert calls == ["newcomer"]


async def test_tell__calls_everybody_once_and_whoever_asks_meanwhile_the_next_time() -> None:
    awaited: Awaited[str] = Awaited()
    calls: list[str] = []

    def first(outcome: str) -> None:
        calls.append("first " + outcome)
        awaited.then(lambda outcome: calls.append("newcomer " + outcome))

    awaited.then(first)
    future = awaited.future()
    awaited.then(lambda outcome: calls.append("last " + outcome))
    abandoned = awaited.future()
    abandoned.cancel()
    awaited.tell("a")
    assert calls == ["first a", "last a"] and await future == "a"
    awaited.tell("b")
    awaited.tell("c")
    assert calls == ["first a", "last a", "newcomer b"]


def test_hand_over__has_everybody_wait_there_in_order() -> None:
    before, after = Awaited[str](), Awaited[str]()
    calls: list[int] = []
    after.then(lambda _: calls.append(0))
    for number in (1, 2):
        before.then(lambda _, number=number: calls.append(number))
    before.hand_over(after)
    before.tell("nobody")
    after.tell("all")
    assert calls == [0, 1, 2]


def test_register_with_all__is_told_by_each_until_it_is_taken_out_of_all() -> None:
    idle: Waiters[str] = Waiters()
    busy: Waiters[str] = Waiters()
    calls: list[str] = []
    other, told = (lambda subject: calls.append("other " + subject)), calls.append
    busy.register(other)
    register_with_all([idle, busy, busy], told)
    idle.wake("idle")
    busy.wake("busy")
    assert calls == ["idle", "other busy", "busy"]
    calls.clear()
    unregister_from_all([busy, idle, Waiters[str]()], told)
    idle.wake("idle")
    busy.wake("busy")
    assert calls == ["other busy"]
    assert idle.callbacks is None, "whom nobody waits for pays for no dict"
    assert busy.count == 1
