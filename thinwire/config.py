"""Strict, frozen configs: an unknown key or a value out of range is an error at construction, never later."""

from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from thinwire.display import line
from thinwire.errors import UserError
from thinwire.files import read_text, repeated_key

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", strict=True)
"""For `pydantic.with_config` on frozen dataclasses that are read from files: no unknown keys, no conversions."""


class Config(BaseModel):
    """Base of every config: immutable, closed to unknown keys; the docstring under a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __repr__(self) -> str:
        """The fields that differ from their defaults, in one short line."""
        set_fields = (
            (name, getattr(self, name))
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.get_default(call_default_factory=True)
        )
        return line(type(self).__name__, set_fields)

    __str__ = __repr__

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Config from JSON text; `where` names the text in the error. Raises UserError on anything unexpected."""
        try:
            found = cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise UserError(f"{where} is not a valid {cls.__name__}: {explain(error)}.") from None
        if (twice := repeated_key(text)) is not None:
            raise UserError(f"{where} gives the key {twice!r} twice; keep one of them.")
        return found

    @classmethod
    def load(cls, path: Path) -> Self:
        """Config from a JSON file. Raises UserError when it is missing or invalid."""
        try:
            text = read_text(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a JSON config.") from None
        return cls.parse(text, str(path))

    def replace(self, **changes: object) -> Self:
        """A validated copy with some fields changed. Raises UserError for unknown fields and bad values."""
        merged = {name: getattr(self, name) for name in type(self).model_fields} | changes
        try:
            return type(self).model_validate(merged)
        except ValidationError as error:
            raise UserError(f"{type(self).__name__}: {explain(error)}.") from None

    def to_json(self) -> str:
        """The resolved config as indented JSON, defaults included."""
        return self.model_dump_json(indent=2)


def read_record(cls: type[T], path: Path, refusal: str) -> T:
    """An instance of a dataclass or model from a JSON file. Raises UserError(refusal) when it does not fit."""
    try:
        return TypeAdapter(cls).validate_json(read_text(path))
    except (OSError, ValueError):
        raise UserError(refusal) from None


def explain(error: ValidationError) -> str:
    """The first problem of a validation error as a phrase: `field: what is wrong`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}" if place else message
