"""The service in the user's code that is to run: how it is named, and how it is loaded."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ModuleFailed, ModuleNotFound

if TYPE_CHECKING:
    from .services import Service

__all__ = ["Target", "load_service", "patch_standard_library"]


class Target(NamedTuple):
    """Where a service is: `module` is a dotted name or the path of a file, `attribute` a dotted name in it."""

    module: str
    attribute: str = "service"

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"

    @property
    def is_file(self) -> bool:
        """Whether the module is given as the path of a file."""
        return self.module.endswith(".py") or os.sep in self.module


def patch_standard_library() -> None:
    """Let the blocking calls of the standard library switch to other greenlets.

    To be called before anything else is imported: what was imported earlier and kept a function or a lock of its own
    would go on blocking. Until then there is click, which keeps nothing that matters.
    """
    from gevent import monkey

    monkey.patch_all()


def load_service(target: Target) -> Service:
    """Import the service that `target` names. Raises `ModuleNotFound` or `ModuleFailed`."""
    from .services import Service

    module = _import_file(target.module) if target.is_file else _import_dotted(target.module)
    found = _attribute(module, target)
    if not isinstance(found, Service):
        raise ModuleNotFound(f"{target} is not a Service but {_described(found)}{_services_in(module, target)}")
    return found


def _import_dotted(name: str) -> ModuleType:
    _put_on_path(os.getcwd())  # as gunicorn does; `python -m` has it there already
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An error about anything else than the module or a package above it was raised by an import inside.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
        raise ModuleNotFound(f"no module {name!r}: {error}{_near_miss(error.name)}") from None
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _import_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        hint = f"; did you mean {path}.py?" if os.path.isfile(f"{path}.py") else ""
        raise ModuleNotFound(f"no file {path!r} in {os.getcwd()}{hint}")
    directory, file = os.path.split(os.path.abspath(path))
    _put_on_path(directory)  # as `python FILE` does
    name = file.removesuffix(".py")
    if name in sys.modules:  # queue.py, say: whoever wants the one of the standard library is to get it
        name = f"{name}_of_dploylib_run"
    spec = importlib.util.spec_from_file_location(name, os.path.join(directory, file))
    if spec is None or spec.loader is None:
        raise ModuleNotFound(f"{path!r} is not a module of Python: expected a file that ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    return module


def _put_on_path(directory: str) -> None:
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _failed(module: str, error: BaseException) -> ModuleFailed:
    return ModuleFailed(f"{module} failed to import: {type(error).__name__}: {error}")


def _near_miss(missing: str) -> str:
    parent, _, name = missing.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", None) or [os.getcwd()]
    nearest = difflib.get_close_matches(name, [module.name for module in pkgutil.iter_modules(places)], n=1)
    return f"; did you mean {parent}{'.' if parent else ''}{nearest[0]}?" if nearest else ""


def _attribute(module: ModuleType, target: Target) -> Any:
    found: Any = module
    way = target.module
    for name in target.attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ModuleNotFound(f"{way} has no attribute {name!r}{_services_in(module, target)}") from None
        way = f"{way}.{name}"
    return found


def _services_in(module: ModuleType, target: Target) -> str:
    from .services import Service

    names = [name for name, value in vars(module).items() if isinstance(value, Service)]
    if not names:
        return f"; {target.module} has no Service at its top level"
    return f"; there is {' and '.join(f'{target.module}:{name}' for name in names)}"


def _described(found: Any) -> str:
    from .servers import Server
    from .services import Service

    if isinstance(found, type) and issubclass(found, Server):
        return f"a server class (add it to a service: service.add_server('name', {found.__name__}))"
    if found is Service:
        return "the class Service itself (make one: service = Service())"
    if isinstance(found, type):
        return f"the class {found.__name__}"
    kind = type(found).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
