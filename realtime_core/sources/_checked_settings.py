"""CheckedSettings: settings whose validators find every problem, not only the first one."""

from __future__ import annotations

from typing import TypeVar

import attrs

from ..errors import ConfigError

__all__ = ["CheckedSettings", "check_choice"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class CheckedSettings:
    """The base of settings that are checked field by field.

    A validator that raised would hide the problems of the fields behind it. So each appends a
    sentence to :attr:`problems`, which names the field and the remedy, and all of them together
    are raised when the last one is through.

    Raises:
        ConfigError: with every problem.
    """

    problems: list[str] = attrs.field(init=False, factory=list, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)


def check_choice(settings: CheckedSettings, field: attrs.Attribute[T], value: T) -> None:
    """Check, as a validator, that a field has one of the values in its metadata's ``choices``."""
    choices = field.metadata["choices"]
    if value not in choices:
        wanted = " or ".join(map(repr, choices))
        settings.problems.append(f"{field.name} is {wanted}, not {value!r}")
