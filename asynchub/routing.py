"""Which channels events go to.

Threads: none of this locks; ``EventBus`` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from asynchub.channels import Channel, Cursor, Selection
from asynchub.events import ENTRY, Event, ScalarUpdated
from asynchub.filing import Run
from asynchub.stretches import LONGEST, Stretch

__all__ = ("Routing",)


class _Routes(dict[tuple[str, type[Event]], tuple[Channel, ...]]):
    """Where events of a key and kind go; found once for each."""

    def __init__(self, channels: tuple[Channel, ...]) -> None:
        super().__init__()
        self._channels = channels

    def __missing__(self, of: tuple[str, type[Event]]) -> tuple[Channel, ...]:
        found = tuple(channel for channel in self._channels if channel.test(*of))
        self[of] = found
        return found


class Routing:
    """The channels, one for each distinct selection that somebody reads.

    Attributes:
        channels: they.
        blocking: cursors for which a publisher waits.
    """

    def forget_routes(self) -> None:
        """Have no channels."""
        self._by_selection: dict[Selection, Channel] = {}
        self.route()

    def route(self) -> None:
        """Take notice of changed selections."""
        by_selection = self._by_selection
        self.channels = tuple(by_selection.values())
        self._selective = not all("**" in selection.patterns for selection in by_selection)
        self._routes = _Routes(self.channels)
        self.blocking = [c for channel in self.channels for c in channel.cursors if c.overflow == "block"]

    def join(self, cursor: Cursor, selection: Selection, channel: Channel) -> None:
        """Put ``cursor`` at the end of the channel of ``selection``, which is ``channel`` if there is none yet."""
        channel = self._by_selection.setdefault(selection, channel)
        channel.read_by([*channel.cursors, cursor])
        cursor.channel = channel
        cursor.position = cursor.handled = channel.end
        self.route()

    def part_from(self, cursor: Cursor, channel: Channel) -> None:
        """Take ``cursor`` off its channel."""
        channel.read_by([one for one in channel.cursors if one is not cursor])
        cursor.channel = None
        for selection in [one for one, of in self._by_selection.items() if not of.cursors]:
            del self._by_selection[selection]
        self.route()

    def wants(self, key: str, kind: type[Event] = ScalarUpdated) -> bool:
        """Tell whether anybody reads events of that key and kind."""
        return bool(self._routes[key, kind])

    def wants_any(self, items: list[Any]) -> bool:
        """Tell whether anybody reads one of these entries."""
        if not self._selective:
            return bool(self.channels)
        routes = self._routes
        if routes[items[0].key, ScalarUpdated]:  # as nearly always
            return True
        return len(items) > ENTRY and any(routes[cell.key, ScalarUpdated] for cell in set(items[::ENTRY]))

    def any_wanted_by(self, items: Iterable[Any], channels: Collection[Channel]) -> bool:
        """Tell whether one of these runs and other events goes to one of ``channels``."""
        found: set[tuple[str, type[Event]]] = set()
        for item in items:
            if type(item) is tuple:
                found.update((cell.key, ScalarUpdated) for cell in item[1][::ENTRY])
            else:
                found.add((item.key, type(item)))
        routes = self._routes
        return any(channel in channels for of in found for channel in routes[of])

    def sort(self, taken: Iterable[Any], again: bool) -> None:
        """Append runs and other events to the channels that want them.

        Args:
            taken: they, in order.
            again: whether an exception broke this off before, so that some of it may be done.
        """
        routes = self._routes
        stretches: Iterable[Stretch]
        for item in taken:
            if type(item) is not tuple:
                channels, stretches = routes[item.key, type(item)], (Stretch.of_events([item]),)
            else:
                first, items = item
                if not self._selective:
                    channels = self.channels
                else:
                    channels = routes[items[0].key, ScalarUpdated]
                    if len(items) > ENTRY and not self._go_together(items):
                        self._sort_apart(item, again)
                        continue
                size = len(items) // ENTRY
                seqs = range(first, first + size)
                stretches = (Stretch(seqs, items),) if size <= LONGEST else Stretch.of_entries(seqs, items)
            for stretch in stretches:
                for channel in channels:
                    if not again or channel.last_seq < stretch.last_seq:
                        channel.append(stretch)

    def _go_together(self, items: list[Any]) -> bool:
        """Tell whether all entries go to the same channels."""
        cells = items[::ENTRY]
        if cells[0] is cells[-1] and cells.count(cells[0]) == len(cells):
            return True
        routes = self._routes
        return len({routes[cell.key, ScalarUpdated] for cell in set(cells)}) == 1

    def _sort_apart(self, run: Run, again: bool) -> None:
        """Append entries to the channels that want them, not all the same; what nobody wants is left out."""
        first, items = run
        routes = self._routes
        cells = items[::ENTRY]
        unwanted = {cell for cell in set(cells) if not routes[cell.key, ScalarUpdated]}
        wanted = [index for index, cell in enumerate(cells) if cell not in unwanted]
        if unwanted:
            items = [item for index in wanted for item in items[index * ENTRY : (index + 1) * ENTRY]]
        for stretch in Stretch.of_entries([first + index for index in wanted], items):
            for channel, part in self._parts(stretch):
                if not again or channel.last_seq < part.last_seq:
                    channel.append(part)

    def _parts(self, stretch: Stretch) -> Iterator[tuple[Channel, Stretch]]:
        """Yield what of a stretch each channel wants."""
        cells = stretch.cells()
        routes = {cell: self._routes[cell.key, ScalarUpdated] for cell in set(cells)}
        for channel in dict.fromkeys(itertools.chain.from_iterable(routes.values())):
            foreign = {cell for cell, channels in routes.items() if channel not in channels}
            if foreign:
                yield channel, stretch.part([index for index, cell in enumerate(cells) if cell not in foreign])
            else:
                yield channel, stretch
