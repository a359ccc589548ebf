"""Which implementation is used: what is asked for, what is installed, and what is said of it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from realtime_core import __version__
from realtime_core._implementation import choose, installed

# What is loaded later, by what uses it.
PARTS = ("changes", "copied_rows", "copy_data", "loaders", "steps", "stream", "values")


@pytest.mark.parametrize("wanted", [None, ""])
def test_the_compiled_one_is_used_where_it_is_installed(wanted: str | None) -> None:
    assert choose(wanted, __version__) == "c"
    assert choose(wanted, None) == "python"


def test_either_can_be_asked_for() -> None:
    assert choose("c", __version__) == "c"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("python", __version__) == "python"
        assert choose("python", "0.1") == "python"


def test_another_version_is_not_used_and_the_warning_says_what_to_do() -> None:
    told = (
        f"realtime-core-c is version 0.1, and is not used: install version {__version__}, "
        "which realtime-core has, or uninstall it"
    )
    with pytest.warns(RuntimeWarning) as caught:
        assert choose(None, "0.1") == "python"
    assert [str(warning.message) for warning in caught] == [told]


@pytest.mark.parametrize(
    ("installed", "what"), [(None, "is not installed"), ("0.1", "is version 0.1")]
)
def test_a_program_that_asks_for_the_compiled_one_in_vain_does_not_start(
    installed: str | None, what: str
) -> None:
    with pytest.raises(ImportError) as caught:
        choose("c", installed)
    assert str(caught.value) == (
        f"REALTIME_CORE_IMPL is 'c', but realtime-core-c {what}: install realtime-core-c "
        f"{__version__}, or unset REALTIME_CORE_IMPL"
    )


def test_any_other_word_is_refused() -> None:
    with pytest.raises(ImportError, match="REALTIME_CORE_IMPL is 'C': set it to 'python' or 'c'"):
        choose("C", __version__)


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator's package, of this version, without what is compiled."""
    package = ModuleType("realtime_core_c")
    package.__version__ = __version__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "realtime_core_c", package)
    monkeypatch.setitem(sys.modules, "realtime_core_c.rows", None)


@pytest.mark.parametrize("missing", PARTS)
def test_one_of_which_a_part_is_missing_is_not_used(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder where an earlier state of this version was compiled."""
    package = ModuleType("realtime_core_c")
    package.__version__ = __version__  # type: ignore[attr-defined]
    package.__path__ = [str(tmp_path)]
    for name in {"rows", *PARTS} - {missing}:
        (tmp_path / f"{name}.py").touch()
    for name in list(sys.modules):
        if name.startswith("realtime_core_c"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "realtime_core_c", package)
    monkeypatch.setitem(sys.modules, "realtime_core_c.rows", ModuleType("realtime_core_c.rows"))
    with pytest.warns(RuntimeWarning, match=f"there is no realtime_core_c.{missing}"):
        assert installed(None) is None
    with pytest.raises(ImportError, match=f"there is no realtime_core_c.{missing}"):
        installed("c")


@pytest.mark.usefixtures("halved")
def test_one_that_cannot_be_loaded_is_not_used_and_the_warning_says_why() -> None:
    with pytest.warns(RuntimeWarning, match="cannot be loaded, and is not used .*realtime_core_c"):
        assert choose(None, installed(None)) == "python"
    with pytest.raises(ImportError, match=r"realtime_core_c\.rows"):
        installed("c")


@pytest.mark.usefixtures("halved")
def test_nothing_of_it_is_loaded_where_the_one_in_python_is_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert installed("python") is None
