"""How long a coroutine holds its event loop: the time from each resumption to its next suspension."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from asynchub.pipeline.clock import clock
from asynchub.pipeline.tally import Tally

__all__ = ("Stepped",)


class Stepped:
    """An awaitable that does what a coroutine does, and measures how long it runs.

    Args:
        coroutine: what to run.
        tally: where its time on the loop is added.
        weight: calls that this one stands for.
    """

    __slots__ = ("_coroutine", "_tally", "_weight")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], tally: Tally, weight: int) -> None:
        self._coroutine = coroutine
        self._tally = tally
        self._weight = weight

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, taken = self._coroutine, 0
        step: Any = coroutine.send
        value: Any = None
        thrown: BaseException | None = None
        try:
            while True:
                start = clock()
                try:
                    waits_for = step(value)
                except StopIteration as end:
                    return end.value
                finally:
                    taken += clock() - start
                    value = None  # an exception holds this frame, which must not hold the exception
                try:
                    value = yield waits_for
                    step = coroutine.send
                except BaseException as error:  # it is thrown in where the coroutine waits, as if this was not between
                    thrown = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
                if thrown is not None:
                    if isinstance(thrown, GeneratorExit):
                        coroutine.close()
                        raise thrown
                    step, value, thrown = coroutine.throw, thrown, None
        finally:
            thrown = None
            self._tally.on_loop += taken * self._weight

    @staticmethod
    def inside(generator: Any) -> Any:
        """Return the coroutine that a generator made by ``__await__`` runs; None if it is no such generator.

        For who follows a chain of coroutines from the outside: the generator itself does not show what it waits for.
        """
        if getattr(generator, "gi_code", None) is not Stepped.__await__.__code__:
            return None
        frame = generator.gi_frame
        return None if frame is None else frame.f_locals.get("coroutine")
