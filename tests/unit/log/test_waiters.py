"""Waiters: plain callbacks that may change the list while they are called."""

from bytemq.broker.log.waiters import Waiters


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
    assert len(waiters) == 0


def test_wake__leaves_newcomers_for_the_next_time() -> None:
    waiters: Waiters[None] = Waiters()
    calls: list[str] = []
    waiters.register(lambda _: waiters.register(lambda _: calls.append("newcomer")))
    waiters.wake(None)
    assert calls == []
    waiters.wake(None)
    assert calls == ["newcomer"]
