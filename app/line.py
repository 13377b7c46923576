"""Who draws and who waits: a ticket for each wish, from the moment it is made until its pictures are there."""

import itertools
import threading


class Line:
    """Tickets in the order in which they were asked for. A visitor, which is one open page, has one at a time."""

    def __init__(self) -> None:
        self._tickets: dict[int, tuple[str | None, threading.Event]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def ask(self, visitor: str | None) -> int | None:
        """A ticket; None if the visitor's last wish is still waiting or being drawn."""
        with self._lock:
            if any(owner == visitor for owner, _ in self._tickets.values()):
                return None
            number = next(self._numbers)
            self._tickets[number] = visitor, threading.Event()
            return number

    def ahead(self, ticket: int) -> int:
        """How many are drawn before it."""
        with self._lock:
            return sum(number < ticket for number in self._tickets)

    def stopped(self, ticket: int | None) -> threading.Event:
        """What is set as soon as nobody waits for these pictures; of a ticket that is gone, it is set already."""
        with self._lock:
            if ticket in self._tickets:
                return self._tickets[ticket][1]
        gone = threading.Event()
        gone.set()
        return gone

    def stop(self, visitor: str | None) -> None:
        """Stop what the visitor draws or waits for: asked for by a button, or the page is gone."""
        with self._lock:
            for number, (owner, stopped) in list(self._tickets.items()):
                if owner == visitor:
                    stopped.set()
                    del self._tickets[number]

    def leave(self, ticket: int | None) -> None:
        """The pictures are there, or will not come."""
        with self._lock:
            self._tickets.pop(ticket, None)  # type: ignore[arg-type]
