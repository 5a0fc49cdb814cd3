"""Imports run downward only. Which part of the package may import which is the table below."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

PACKAGE = Path(__file__).parent.parent / "dploylib"

# Every part may also import itself. The main line is
# cli -> daemon -> control -> services -> servers -> transport -> errors, each seeing all that is below it.
BESIDE_SERVERS = {
    "errors",
    "handling",
    "ipc_lock",
    "logs",
    "statistics",
    "security",
    "tracing",
    "transport",
    "connecting",
    "config",
    "messages",
}
BESIDE_SERVICES = BESIDE_SERVERS | {"servers", "clients"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "handling": set(),
    "ipc_lock": set(),
    "logs": {"handling"},
    "statistics": set(),
    "security": {"errors"},
    "config": {"errors", "security"},
    "messages": {"errors"},
    "tracing": {"errors", "handling"},
    "transport": {"errors", "handling", "ipc_lock", "security", "statistics"},
    "connecting": {"errors", "security", "statistics", "transport"},
    "clients": {"errors", "handling", "security", "statistics", "tracing", "transport", "connecting", "messages"},
    "servers": BESIDE_SERVERS,
    "services": BESIDE_SERVICES,
    "targets": BESIDE_SERVICES | {"services"},
    "control": BESIDE_SERVICES | {"services"},
    "daemon": BESIDE_SERVICES | {"services", "control", "targets"},
    "cli": BESIDE_SERVICES | {"services", "control", "daemon", "targets"},
    "testing": BESIDE_SERVICES | {"services", "control", "daemon"},
    "__main__": {"cli"},
    # What it loads lazily, which it tells type checkers by imports that never run (see test_public_surface.py).
    "__init__": BESIDE_SERVICES | {"services"},
}


class Import(NamedTuple):
    path: Path  # below the package
    line: int
    target: str  # the dotted name below the package; empty for the package itself


def imports_of(package: Path) -> Iterator[Import]:
    """Yield every import of the package's own modules, wherever it stands: in a function or under TYPE_CHECKING too."""
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            for name in imported_names(node, (package.name, *path.parent.parts)):
                top, _, target = name.partition(".")
                if top == package.name:
                    yield Import(path, node.lineno, target)


def imported_names(node: ast.AST, inside: tuple[str, ...]) -> Iterable[str]:
    """Return the absolute dotted names that a statement or call imports; `inside` is the package it stands in."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = inside[: len(inside) - level + 1] if level else ()
            source = ".".join([*base, *([module] if module else [])])
            # `from dploylib import errors` imports dploylib.errors; deeper down only the part matters, not the rest.
            return [f"{source}.{alias.name}" for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def violations(package: Path) -> list[str]:
    """Return what breaks the rule, each as `file:line: what is wrong`."""
    found = []
    for path, line, target in imports_of(package):
        source, part = path.parts[0].removesuffix(".py"), target.partition(".")[0]
        if source not in MAY_IMPORT:
            problem = f"{source} is in no layer: give it its place in MAY_IMPORT"
        elif part == "__version__" or part == source or part in MAY_IMPORT[source]:
            continue
        elif part in MAY_IMPORT:
            problem = f"{source} may not import {part}"
        elif (package / part).is_dir() or (package / f"{part}.py").is_file():
            problem = f"{part or package.name} is in no layer: give it its place in MAY_IMPORT, or import a part of it"
        else:
            problem = f"{part} comes from the root of the package: import it from the module that defines it"
        found.append(f"{path.as_posix()}:{line}: {problem}")
    return found


def test_imports_of_the_package_run_downward_only():
    assert violations(PACKAGE) == []


def test_every_part_of_the_package_has_its_place():
    parts = {entry.name.removesuffix(".py") for entry in PACKAGE.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    assert parts - {"__pycache__"} <= set(MAY_IMPORT)


def test_the_table_has_no_cycle():
    def below(part: str, above: tuple[str, ...] = ()) -> None:
        assert part not in above, f"cycle: {' -> '.join([*above, part])}"
        for lower in MAY_IMPORT[part]:
            below(lower, (*above, part))

    for part in MAY_IMPORT:
        below(part)


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("transport/socket.py", "import dploylib.servers.server", "1: transport may not import servers"),
        ("transport/socket.py", "from dploylib.servers import Server", "1: transport may not import servers"),
        ("transport/socket.py", "from dploylib import errors, servers", "1: transport may not import servers"),
        ("transport/socket.py", "from .. import servers", "1: transport may not import servers"),
        ("transport/socket.py", "from ..servers.server import Server", "1: transport may not import servers"),
        ("transport/__init__.py", "from ..servers import Server", "1: transport may not import servers"),
        ("transport/deeper/code.py", "from ...servers import Server", "1: transport may not import servers"),
        ("errors.py", "from .transport import Socket", "1: errors may not import transport"),
        ("config/model.py", "def load():\n    import dploylib.transport", "2: config may not import transport"),
        (
            "messages/started.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dploylib.services import Service",
            "3: messages may not import services",
        ),
        ("clients/request.py", "from dploylib.servers import Server", "1: clients may not import servers"),
        ("testing/harness.py", "from dploylib.cli import run", "1: testing may not import cli"),
        ("services/service.py", "from dploylib.testing import harness", "1: services may not import testing"),
        ("servers/server.py", "import_module('dploylib.services')", "1: servers may not import services"),
        ("servers/server.py", "importlib.import_module('dploylib.cli')", "1: servers may not import cli"),
        (
            "servers/server.py",
            "from dploylib import Socket",
            "1: Socket comes from the root of the package: import it from the module that defines it",
        ),
        ("novelty.py", "import dploylib.errors", "1: novelty is in no layer: give it its place in MAY_IMPORT"),
    ],
)
def test_an_upward_import_is_found(tmp_path, file, source, expected):
    package = synthetic(tmp_path, file, source)
    assert violations(package) == [f"{file}:{expected}"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/run.py", "from dploylib.transport.socket import Socket"),
        ("cli/run.py", "from dploylib import __version__"),
        ("services/service.py", "from ..servers import Server\nfrom .coordinator import Coordinator"),
        ("transport/socket.py", "from dploylib.transport import envelope\nimport zmq.green\nfrom .. import errors"),
        ("testing/harness.py", "from dploylib.daemon import worker"),
        ("__main__.py", "from dploylib.cli import main"),
        ("clients/request.py", "'from dploylib.servers import Server'  # a text, not an import"),
    ],
)
def test_other_imports_are_allowed(tmp_path, file, source):
    assert violations(synthetic(tmp_path, file, source)) == []


def synthetic(directory: Path, file: str, source: str) -> Path:
    """Make a package of one file."""
    path = directory / "dploylib" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    return directory / "dploylib"
