"""Settings as frozen dataclasses: each option with its default, its range and what it does.

A TOML file may set any of them. Unknown keys, wrong types and values out of range are refused
with one line, so that a typing error does not silently train something else.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flowrvs.disk import storage_error
from flowrvs.errors import InputError, MissingPathError

__all__ = ["Option", "list_options", "make_config", "option", "parse_setting", "read_toml"]

_Config = TypeVar("_Config")


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """What is known of one option.

    Attributes
    ----------
    name, help : str
    default : object
    low, high : float or None
        Inclusive bounds of a number, or of every number of a list.
    choices : tuple of str
        What a text may be; empty for any.
    """

    name: str
    help: str
    default: Any
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return "" if self.low is None else f"at least {self.low:g}"


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a dataclass field with what `Option` knows of it."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def list_options(kind: type) -> Iterator[Option]:
    """Yield the options of a config class, in order."""
    for item in dataclasses.fields(kind):
        if "help" in item.metadata:
            yield Option(name=item.name, default=item.default, **item.metadata)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    MissingPathError
        There is no such file.
    InputError
        It is not TOML.
    StorageError
        It cannot be read.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingPathError(f"No config file at {path}; give the path of a TOML file.") from None
    except OSError as error:
        raise storage_error(error, path, doing="read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a TOML file ({error}); correct that line.") from None


def make_config(kind: type[_Config], values: Mapping[str, Any], where: str) -> _Config:
    """Make a config of checked values.

    Parameters
    ----------
    kind : type
        A dataclass whose fields may be numbers, texts, booleans, tuples of them, other such
        dataclasses (tables in TOML), or tuples of those (arrays of tables).
    values : mapping
        By option.
    where : str
        Named in messages: a file, or the command line.

    Raises
    ------
    InputError
        An unknown or missing key, a value of another type or out of range.
    """
    known = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(
            f"{where} has unknown keys {', '.join(unknown)}; known ones: {', '.join(known)}."
        )
    missing = [
        name
        for name, item in known.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; add a line for each.")
    hints = typing.get_type_hints(kind)
    made = {}
    for name, value in values.items():
        made[name] = _convert(value, hints[name], name, where)
        _check_range(made[name], known[name], where)
    return kind(**made)


def parse_setting(kind: type, text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE`` from the command line; the value is written as in TOML.

    Raises
    ------
    InputError
        There is no ``=``, or the value cannot be read.
    """
    name, sign, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not sign:
        raise InputError(f"'{text}' sets nothing; write KEY=VALUE.")
    for written in (value, f'"{value}"'):  # a text may stand without quotation marks
        try:
            values = tomllib.loads(f"value = {written}")
        except tomllib.TOMLDecodeError:
            continue
        if values.keys() == {"value"}:
            return name, values["value"]
    raise InputError(f"The value of {text!r} cannot be read; write it as in a TOML file.")


def _convert(value: Any, hint: Any, name: str, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{name} in {where} must be a table.")
        return make_config(typing.cast(Any, hint), value, f"{where}, {name}")
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name} in {where} must be a list, not {value!r}.")
        return tuple(_convert(item, inner, name, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{name} in {where} must be {_words(hint)}, not {value!r}.")
    if hint is float and value != value:
        raise InputError(f"{name} in {where} must be a number, not nan.")
    return value


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, str(hint))


def _check_range(value: Any, item: dataclasses.Field[Any], where: str) -> None:
    low, high = item.metadata.get("low"), item.metadata.get("high")
    choices = item.metadata.get("choices") or ()
    for part in value if isinstance(value, tuple) else (value,):
        if choices and part not in choices:
            raise InputError(
                f"{item.name} in {where} is {part!r}; choose one of {', '.join(choices)}."
            )
        if (low is not None and part < low) or (high is not None and part > high):
            bounds = f"from {low:g} to {high:g}" if high is not None else f"at least {low:g}"
            raise InputError(f"{item.name} in {where} is {part!r}; it must be {bounds}.")
