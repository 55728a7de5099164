"""Registries: entries by name, added by a decorator, so that an extension is one entry in one file."""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from thinwire.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one kind, in the order they were registered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds its argument under `name`."""

        def add(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} {name} is registered twice"
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """The entry called `name`. Raises UserError that lists close matches or all names."""
        if name not in self._entries:
            raise self.unknown(name, self._entries)
        return self._entries[name]

    def unknown(self, name: str, known: Iterable[str]) -> UserError:
        """The error for a name that is not known: it lists close matches, or all known names."""
        known = list(known)
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(known)}."
        return UserError(f"There is no {self.kind} called '{name}'; {hint}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
