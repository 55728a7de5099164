"""Registries: names to functions or classes, filled by decorator, so that an extension is one entry in one file."""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from thinwire.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, in the order they were registered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files its argument under `name`."""

        def add(thing: T) -> T:
            assert name not in self._entries, f"{self.kind} {name} is registered twice"
            self._entries[name] = thing
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        """The entry called `name`. Raises UserError that lists close matches or all names."""
        if name not in self._entries:
            raise self.unknown(name, self._entries)
        return self._entries[name]

    def unknown(self, name: str, known: Iterable[str]) -> UserError:
        """The error for a name that is none of those known: it lists close matches or all of them."""
        known = list(known)
        close = get_close_matches(name, known, n=3)
        said = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(known)}."
        return UserError(f"There is no {self.kind} called '{name}'; {said}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
