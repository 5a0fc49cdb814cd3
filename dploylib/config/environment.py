"""Fills `${NAME}` and `${NAME:-default}` from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .checking import Report
from .problems import UNREADABLE, Path, brief, is_secret, segment
from .reading import MAX_DEPTH, Quoted, plain_scalar

__all__ = ["EnvironmentFiller"]

# Every `${` is matched, so that a malformed one cannot slip through as text.
_PLACEHOLDER = re.compile(
    r"""
    (?P<escaped> \$\$\{ )
    | \$\{ (?P<name> [A-Za-z_][A-Za-z0-9_]* ) (?: :- (?P<default> [^{}]* ) )? \}
    | (?P<malformed> \$\{ [^}]* \}? )
    """,
    re.VERBOSE,
)


class EnvironmentFiller:
    """Fills the placeholders in plain data, and reports those that cannot be filled."""

    def __init__(self, environ: Mapping[str, str], report: Report) -> None:
        self.alone: set[Path] = set()  # where a quoted string was nothing but one placeholder
        self._environ = environ
        self._report = report
        self._open: set[int] = set()

    def fill(self, data: Any, path: Path = ()) -> Any:
        """A copy of `data` with its strings filled, UNREADABLE in place of those that could not be."""
        if isinstance(data, str):
            return self._scalar(data, path)
        if not isinstance(data, (Mapping, list, tuple)):
            return data
        if id(data) in self._open or len(path) > MAX_DEPTH:
            self._report(path, f"a value that contains itself, or is nested more than {MAX_DEPTH} levels deep")
            return UNREADABLE
        self._open.add(id(data))
        filled = self._container(data, path)
        self._open.discard(id(data))
        return filled

    def _container(self, data: Any, path: Path) -> Any:
        if isinstance(data, Mapping):
            return {key: self.fill(value, (*path, segment(key))) for key, value in data.items()}
        return [self.fill(item, (*path, str(index))) for index, item in enumerate(data)]

    def _scalar(self, text: str, path: Path) -> Any:
        flaws: list[str] = []
        filled = _PLACEHOLDER.sub(lambda match: self._value(match, path, flaws), text)
        for flaw in flaws:
            self._report(path, flaw)
        if flaws:
            return UNREADABLE
        quoted = isinstance(text, Quoted)
        match = _PLACEHOLDER.fullmatch(text)
        if quoted and match and not match["escaped"]:
            self.alone.add(path)
        return str(text) if filled == text else self._resolved(filled, path, quoted)

    def _resolved(self, filled: str, path: Path, quoted: bool) -> Any:
        try:
            return filled if quoted else plain_scalar(filled)
        except ValueError as error:
            self._report(path, str(error))
            return UNREADABLE

    def _value(self, match: re.Match[str], path: Path, flaws: list[str]) -> str:
        if match["escaped"]:
            return "${"
        name, default = match["name"], match["default"]
        value = self._environ.get(name) if name else None
        if name is None:
            found = "" if is_secret(path) else f" {brief(match['malformed'])}"
            flaws.append(f"malformed placeholder{found}, expected ${{NAME}} or ${{NAME:-default}} (write $${{ for ${{)")
        elif value is None and default is None:
            flaws.append(f"the environment variable {name} is not set; give a default with ${{{name}:-default}}")
        return value or default or ""  # as in a shell, the default also stands in for an empty variable
