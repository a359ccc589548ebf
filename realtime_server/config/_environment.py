"""Reading a class of settings from environment variables, and finding every problem at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import attrs
import cattrs

from ._kinds import kind_of
from ._readers import is_broken

__all__ = ["MASK", "dev_defaults", "near_misses", "structure", "variable", "variable_fields"]

_T = TypeVar("_T")

MASK: Final = "***"
"""The text that is shown in place of a secret."""
_MOST_SHOWN: Final = 100
"""How many characters of a value a problem repeats, at most."""
_MOST_READ: Final = 1024 * 1024
"""How many characters a secret's file may have."""
_USER_INFO: Final = re.compile(r"(?<![^\s,/])[^\s,/]+@")
"""A user and a password in an address, which belong elsewhere and are not repeated."""
_LIKENESS: Final = 0.85
"""How alike two names are if one is taken for the other misspelt; 0 is not at all, 1 is equal."""


def variable(default: _T, meaning: str, *, dev: _T | None = None, secret: bool = False) -> _T:
    """Make a field that is an environment variable.

    Args:
        default: the default value.
        meaning: what the variable does, for the documentation.
        dev: the default with ``--dev``, if it differs.
        secret: whether the value is never shown, and may be in a file that ``<NAME>_FILE`` names.
    """
    metadata = {"meaning": meaning, "dev": dev, "secret": secret}
    return attrs.field(default=default, repr=not secret, metadata=metadata)


def variable_fields(cls: type[attrs.AttrsInstance]) -> Iterator[attrs.Attribute[Any]]:
    """Yield the fields of a class that are environment variables, with their types resolved."""
    for field in attrs.fields(attrs.resolve_types(cls)):
        if kind_of(field.type) is not None:
            yield field


def dev_defaults(cls: type[attrs.AttrsInstance]) -> dict[str, Any]:
    """Return the defaults of ``--dev`` that differ, by field."""
    return {
        field.name: field.metadata["dev"]
        for field in attrs.fields(cls)
        if field.metadata.get("dev") is not None
    }


def structure(
    environ: Mapping[str, str], cls: type[attrs.AttrsInstance]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the variables of ``cls``.

    Returns:
        The values of the variables that are set and valid, and the problems of the others, both by
        field. Where a secret was read from a file, the file's path is the value of
        ``<field>_file``, if ``cls`` has such a field.
    """
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    known = {field.name for field in attrs.fields(cls)}
    for field in variable_fields(cls):
        try:
            text, path = _text_of(field, environ)
        except ValueError as exc:
            problems[field.name] = str(exc)
            continue
        if text:
            texts[field.name] = text
        if path is not None and f"{field.name}_file" in known:
            values[f"{field.name}_file"] = path
    good, bad = _read(texts, cls)
    for field in variable_fields(cls):
        if field.name in bad:
            problems[field.name] = _problem(field, environ, texts[field.name], bad[field.name])
    in_order = {
        field.name: problems[field.name] for field in attrs.fields(cls) if field.name in problems
    }
    return {**values, **good}, in_order


def _read(
    texts: Mapping[str, str], cls: type[attrs.AttrsInstance]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of valid texts, and the remedies for invalid ones."""
    bad: dict[str, str] = {}
    try:
        config = _converter.structure(texts, cls)
    except cattrs.ClassValidationError as group:
        named, _ = group.group_exceptions()
        bad = {note.name: str(exc) for exc, note in named}
        texts = {name: text for name, text in texts.items() if name not in bad}
        config = _converter.structure(texts, cls)
    return {name: getattr(config, name) for name in texts}, bad


def _text_of(field: attrs.Attribute[Any], environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return a variable's text, empty if it is unset, and the file that it was read from.

    Raises:
        ValueError: if there is no such text; the message is the whole problem.
    """
    name = field.name.upper()
    text = environ.get(name, "")
    path = environ.get(f"{name}_FILE", "") if field.metadata["secret"] else ""
    if path:
        if text:
            raise ValueError(f"{name} and {name}_FILE are both set; unset one of them")
        text = _secret_of(name, path)
    if is_broken(text):
        raise ValueError(f"{name} is not valid UTF-8; set it again in a UTF-8 terminal or file")
    return text, path or None


def _secret_of(name: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_READ + 1).rstrip("\r\n")
    except OSError as exc:
        raise ValueError(
            f"{name}_FILE is {_shown(path)}, which cannot be read ({exc.strerror}); name a file "
            f"that holds {name} and that the server may read"
        ) from None
    except ValueError:
        raise ValueError(
            f"{name}_FILE is {_shown(path)}, which is not valid UTF-8; write {name} into it as text"
        ) from None
    if not text or len(text) > _MOST_READ:
        found = "longer than 1 MiB" if text else "empty"
        raise ValueError(
            f"{name}_FILE is {_shown(path)}, a file that is {found}; write {name} into it"
        )
    return text


def _problem(
    field: attrs.Attribute[Any], environ: Mapping[str, str], text: str, remedy: str
) -> str:
    name = field.name.upper()
    if not field.metadata["secret"]:
        return f"{name} is {_shown(text)}; {remedy}"
    source = f" (read from {name}_FILE)" if environ.get(f"{name}_FILE") else ""
    return f"{name}{source} is {MASK}; {remedy}"


def _shown(text: str) -> str:
    text = _USER_INFO.sub(f"{MASK}@", text)
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")


def near_misses(
    environ: Mapping[str, str],
    cls: type[attrs.AttrsInstance],
    families: Mapping[str, str],
) -> list[str]:
    """Return a sentence for each set variable that looks like a misspelt one of ``cls``.

    Args:
        environ: the environment variables.
        cls: the class whose fields are the known variables.
        families: by the beginning of a name, what to set instead of an unknown variable that
            begins so.
    """
    known = []
    for field in variable_fields(cls):
        known.append(field.name.upper())
        if field.metadata["secret"]:
            known.append(f"{field.name.upper()}_FILE")
    found = []
    for name in sorted(environ):
        if name in known or not environ[name]:
            continue
        likely = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_LIKENESS)
        if likely and not environ.get(likely[0]):
            found.append(f"{name} is no variable of this server; did you mean {likely[0]}?")
            continue
        for beginning, instead in families.items():
            if name.upper().startswith(beginning):
                found.append(f"{name} is no variable of this server, and has no effect; {instead}")
    return found


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()

    @converter.register_structure_hook_factory(lambda kind: kind_of(kind) is not None)
    def read_hook(annotation: Any) -> Any:
        kind = kind_of(annotation)
        assert kind is not None
        return lambda text, _: kind.read(text)

    return converter


_converter: Final = _make_converter()
