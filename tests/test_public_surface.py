"""What the package offers is explicit, documented, and costs nothing until it is used."""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import dploylib

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

ROOT = Path(__file__).parent.parent
# `__main__` patches when it is imported, and is there to be run.
PUBLIC_MODULES = [
    "dploylib",
    *(
        info.name
        for info in pkgutil.walk_packages(dploylib.__path__, "dploylib.")
        if not any(part.startswith("_") for part in info.name.split("."))
    ),
]


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_module_lists_names_that_exist(name):
    module = importlib.import_module(name)
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    missing = [entry for entry in module.__all__ if not hasattr(module, entry)]
    assert not missing, f"{name}.__all__ has names that the module does not have"
    assert len(set(module.__all__)) == len(module.__all__), f"{name}.__all__ has a name twice"


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_definition_has_a_docstring(name):
    module = importlib.import_module(name)
    assert [path for path, value in public_definitions(module) if not own_doc(value)] == []


def public_definitions(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the module and its public classes, functions, methods and properties, each with its dotted name."""
    yield module.__name__, module
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if getattr(value, "__module__", None) != module.__name__:
            continue  # a constant, or defined elsewhere and seen there
        if inspect.isclass(value):
            yield f"{module.__name__}.{name}", value
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and isinstance(
                    member, (property, staticmethod, classmethod)
                ) | inspect.isfunction(member):
                    yield f"{module.__name__}.{name}.{attribute}", member
        elif inspect.isroutine(value):
            yield f"{module.__name__}.{name}", value


def own_doc(value: object) -> str | None:
    """Return what somebody wrote. A dataclass without a docstring is given its signature for one."""
    doc = value.__doc__
    return None if inspect.isclass(value) and doc and doc.startswith(f"{value.__name__}(") else doc


def test_the_package_lists_its_lazy_names():
    assert set(dploylib.__all__) <= set(dir(dploylib))
    with pytest.raises(AttributeError, match="module 'dploylib' has no attribute 'nothing_like_it'"):
        dploylib.nothing_like_it  # noqa: B018 - the attempt is the test


def test_every_submodule_is_an_attribute_and_nothing_is_that_does_not_exist():
    modules = {name.split(".")[1] for name in PUBLIC_MODULES if "." in name}
    assert {name for name in dir(dploylib) if inspect.ismodule(getattr(dploylib, name))} >= modules
    assert modules == dploylib._SUBMODULES
    assert not hasattr(dploylib, "nothing_like_it")


def test_a_lazy_name_is_the_one_of_its_module():
    from dploylib.transport import Envelope

    assert dploylib.Envelope is Envelope
    assert dploylib.errors.DployError is dploylib.DployError


def modules_after(statements: str) -> set[str]:
    """Return the modules that a fresh interpreter has after the statements."""
    script = f"{statements}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    # Away from here, so that the answer is the same from any directory; not isolated, for the package to be found.
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_else():
    added = modules_after("import dploylib") - modules_after("")
    assert added <= {"dploylib", "__future__"}


def test_importing_the_package_does_not_patch():
    assert "gevent.monkey" not in modules_after("import dploylib")


def test_importing_services_leaves_the_command_line_out():
    assert modules_after("import dploylib.services").isdisjoint(
        {"click", "gunicorn", "dploylib.cli", "dploylib.testing"}
    )


def test_importing_messages_leaves_their_store_and_everything_that_waits_out():
    assert modules_after("import dploylib.messages").isdisjoint({"sqlalchemy", "gevent", "zmq", "yaml", "sqlite3"})


def test_importing_services_does_not_patch():
    statements = "import dploylib.services\nfrom gevent import monkey\nassert not monkey.saved, list(monkey.saved)"
    modules_after(statements)


def test_importing_the_plugin_of_pytest_costs_next_to_nothing():
    added = modules_after("import pytest, dploylib.testing.plugin") - modules_after("import pytest")
    assert {name for name in added if not name.startswith("dploylib")} <= {"__future__"}


def test_the_testing_kit_needs_no_pytest():
    names = "from dploylib.testing import *; import dploylib.testing as kit; assert set(kit.__all__) <= set(globals())"
    assert "pytest" not in modules_after(names)
