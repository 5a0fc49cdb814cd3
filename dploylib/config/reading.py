"""Reads YAML into plain data, and remembers the line of every value.

`yaml.safe_load` forgets the lines and takes the last of two equal keys in silence, so this module builds the data
from the node tree that PyYAML composes. Only what `safe_load` could build comes out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError
from yaml.resolver import Resolver

from .problems import UNREADABLE, Path, looks_secret, segment

__all__ = ["MAX_DEPTH", "Document", "Quoted", "plain_scalar", "read_yaml"]

MAX_DEPTH: Final = 100
"""How deep values may be nested: far from Python's recursion limit, and far from any real configuration."""

_MAX_VALUES = 100_000  # ten lines of aliases to aliases can stand for more values than fit into memory
_TAG = "tag:yaml.org,2002:"
_MERGE_TAG = f"{_TAG}merge"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "binary", "timestamp", "str"))
_UNSUPPORTED = "this tag is not supported here; a string that begins with '!' has to be quoted"


class Quoted(str):
    """A string that was quoted in YAML: it stays a string, whatever it looks like once its placeholders are filled."""

    __slots__ = ()


class Document(NamedTuple):
    """What a text says: its data, the line of each path, and what is wrong (paths and messages)."""

    data: Any
    lines: dict[Path, int]
    problems: list[tuple[Path, str]]


def read_yaml(text: str, secret: bool = False) -> Document:
    """Read a text of YAML; an empty one is null. After a syntax error the data is UNREADABLE.

    Nothing of a `secret` text is quoted in its problems.
    """
    builder = _Builder()
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        data = builder.build(root, ()) if root else None
    except RecursionError:  # PyYAML's own, in composing: the builder stops at MAX_DEPTH
        return _broken(1, f"nested more than {MAX_DEPTH} levels deep")
    except ReaderError as error:
        return _broken(text.count("\n", 0, error.position) + 1, "a character that YAML does not allow")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return _broken(line, _parser_says(error, text, line, secret))
    return Document(data, builder.lines, builder.problems)


def plain_scalar(text: str) -> Any:
    """The value of `text` as an unquoted scalar: `10` is an int. Raises ValueError (`2024-99-99` is no date)."""
    tag = Resolver().resolve(ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # not in the stubs
    return _construct(tag, text) if tag in _SCALAR_TAGS else text


def _construct(tag: str, text: str) -> Any:
    if tag not in _SCALAR_TAGS:
        raise ValueError(_UNSUPPORTED)
    try:
        return SafeConstructor().construct_object(ScalarNode(tag, text))
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError) as error:
        # PyYAML lets through whatever its conversions meet: KeyError for `!!bool maybe`, AttributeError for dates.
        raise ValueError(f"not a valid {tag.removeprefix(_TAG)}; quote it if it is a string") from error


class _Builder:
    """Builds plain data from nodes."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[tuple[Path, str]] = []
        self._open: set[Node] = set()
        self._count = 0

    def build(self, node: Node, path: Path) -> Any:
        """The value of `node`, which is at `path`. Raises MarkedYAMLError if there are too many values."""
        self.lines.setdefault(path, _line(node))
        self._count += 1
        if self._count > _MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {_MAX_VALUES} values", problem_mark=node.start_mark)
        if node in self._open:
            return self._unreadable(path, "an alias refers to a value that it is itself part of")
        if len(path) > MAX_DEPTH:
            return self._unreadable(path, f"nested more than {MAX_DEPTH} levels deep")
        self._open.add(node)
        value = self._value(node, path)
        self._open.discard(node)
        return value

    def _value(self, node: Node, path: Path) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._child(item, (*path, str(index)), item) for index, item in enumerate(node.value)]
        return self._unreadable(path, _UNSUPPORTED)

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        try:
            value = _construct(node.tag, node.value)
        except ValueError as error:
            return self._unreadable(path, str(error))
        return Quoted(value) if node.style and isinstance(value, str) else value

    def _mapping(self, node: MappingNode, path: Path) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        for source in _merge_sources(node):
            data |= self._merged(source, path)
        first_lines: dict[Any, int] = {}
        for key, key_node, value_node in self._entries(node, path):
            here = (*path, segment(key))
            data[key] = self._child(value_node, here, key_node)
            if key in first_lines:
                self.problems.append((here, f"duplicate key {segment(key)!r}, already on line {first_lines[key]}"))
            first_lines.setdefault(key, _line(key_node))
        return data

    def _entries(self, node: MappingNode, path: Path) -> Iterator[tuple[Any, Node, Node]]:
        """The keys of a mapping itself, without those merged in, with the nodes of key and value."""
        for key_node, value_node in node.value:
            key = UNREADABLE if key_node.tag == _MERGE_TAG else self._key(key_node, path)
            if key is not UNREADABLE:
                yield key, key_node, value_node

    def _key(self, node: Node, path: Path) -> Any:
        if isinstance(node, ScalarNode):
            key = self._scalar(node, (*path, node.value))
            return str(key) if isinstance(key, Quoted) else key
        kind = "mapping" if isinstance(node, MappingNode) else "list"
        return self._unreadable(path, f"a key has to be a string, found a {kind} on line {_line(node)}")

    def _merged(self, node: Node, path: Path) -> dict[Any, Any]:
        data = self.build(node, path) if isinstance(node, MappingNode) else None
        if data is None:
            self._unreadable(path, "expected a mapping or a list of mappings after <<")
        return data if isinstance(data, dict) else {}

    def _child(self, node: Node, path: Path, written: Node) -> Any:
        """The value of `node`. Its line is that of `written`, since `node` may be an alias to somewhere else."""
        self.lines[path] = _line(written)
        return self.build(node, path)

    def _unreadable(self, path: Path, message: str) -> Any:
        self.problems.append((path, message))
        return UNREADABLE


def _merge_sources(node: MappingNode) -> Iterator[Node]:
    """What `<<` names, the strongest last: of the mappings in a list, the first wins."""
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE_TAG:
            yield from reversed(value_node.value) if isinstance(value_node, SequenceNode) else [value_node]


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _broken(line: int, message: str) -> Document:
    return Document(UNREADABLE, {(): line}, [((), f"invalid YAML: {message}")])


def _parser_says(error: yaml.MarkedYAMLError, text: str, line: int, secret: bool) -> str:
    """The parser's own words, which can quote the text: they are left out where that could be a secret."""
    written = "".join(text.splitlines()[line - 1 : line])
    if secret or looks_secret(written):
        return "a value that begins with a special character has to be quoted"
    hint = "; a placeholder inside { } or [ ] has to be quoted" if "${" in written else ""
    return f"{', '.join(filter(None, (error.context, error.problem)))}{hint}"
