"""Public names of a package, loaded on first use, so that `--help` and configs never wait for torch."""

from collections.abc import Callable
from importlib import import_module


def attach(package: str, homes: dict[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names live in the given submodules."""

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    names = sorted(homes)
    return load, lambda: names, names
