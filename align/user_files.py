"""Import of a Python file that the user names as FILE.py:NAME, with the modules beside it. Imports no torch.

The code of the file's folder finds its neighbours first: `import utils` is the file's own `utils.py`, while the file is
imported and later, inside functions and threads. Each folder's modules have names of their own in sys.modules, so that
two folders may both have a `utils.py`, and for all other code an installed package of that name stays what it is.
`importlib.import_module("utils")` and other imports by text do not see neighbours.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import inspect
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from align.errors import InputError

SHOWN = 12  # most names that an error lists
_NUMBERS = itertools.count()


class _Loader(SourceFileLoader):
    """Loader of a folder's modules: always from the source, as cached bytecode knows changes by whole seconds alone."""

    def __init__(self, name: str, path: str, folder: _Folder) -> None:
        super().__init__(name, path)
        self._folder = folder

    def get_code(self, fullname: str) -> CodeType:
        self._folder.stamps[self.path] = _stamp(self.path)
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._folder.builtins
        super().exec_module(module)


class _Folder(MetaPathFinder):
    """A folder whose modules are imported as parts of a package of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.package = path, f"align_user_{next(_NUMBERS)}"
        self.stamps: dict[str, tuple[int, int]] = {}  # of the files that were imported, as they were then
        self.taken = False  # by a run, whose objects no other run shares
        self.builtins = vars(builtins) | {"__import__": self._import}
        spec = ModuleSpec(self.package, None, is_package=True)
        spec.submodule_search_locations = [str(path)]
        sys.modules[self.package] = importlib.util.module_from_spec(spec)
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path) if name.startswith(f"{self.package}.") else None
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Loader(name, found.loader.path, self)
        return found

    def module(self, file: Path) -> ModuleType:
        """Import a file of the folder, once."""
        name = f"{self.package}.{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file), self))
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[name]

    def remove(self) -> None:
        """Take the folder's modules out of what Python has imported; those in use live on."""
        sys.meta_path.remove(self)
        for name in [n for n in sys.modules if n == self.package or n.startswith(f"{self.package}.")]:
            del sys.modules[name]

    @property
    def changed(self) -> bool:
        return any(_stamp(path) != stamp for path, stamp in self.stamps.items())

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import as the statement does in the folder's code, a neighbour before anything else of its name."""
        top = name.partition(".")[0]
        if level or not self._has(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or ())
        return found if fromlist else sys.modules[f"{self.package}.{top}"]

    def _has(self, top: str) -> bool:
        spec = None if top in sys.builtin_module_names else PathFinder.find_spec(top, [str(self.path)])
        if spec is None:
            return False
        if spec.origin is None:  # a folder without code of its own, such as wandb/, gives way to a package
            return top not in sys.modules and importlib.util.find_spec(top) is None
        return getattr(sys.modules.get(top), "__file__", None) != spec.origin  # already imported under its own name


_FOLDERS: dict[Path, _Folder] = {}  # what the check of a configuration imports, its run takes


def find_callable(path: str, key: str) -> Callable[..., Any]:
    """Import the file of FILE.py:NAME, and return the callable that NAME is bound to; of a class the class itself.

    Raises:
        InputError: There is no such file or name, the file raises when it is imported, or NAME is nothing that can be
            called without more.
    """
    file, _, name = path.rpartition(":")
    allowed = "FILE.py:NAME of a Python function"
    if not file.endswith(".py") or not name.isidentifier():
        raise InputError(key, path, allowed)
    if not Path(file).is_file():
        raise InputError(key, path, f"{allowed} (there is no such file)")
    module = _imported(Path(file).resolve(), path, key)
    if not hasattr(module, name):
        raise InputError(key, path, f"one of the functions there: {_callables(module)}")
    found = getattr(module, name)
    if not callable(found) or (isinstance(found, type) and not callable(vars_of(found).get("__call__"))):
        what = f"a class without __call__, {name}" if isinstance(found, type) else f"{name}, of {type(found).__name__}"
        raise InputError(key, path, f"something that can be called (this is {what})")
    if isinstance(found, type) and (needed := _required(found)):
        raise InputError(key, path, f"a class that needs no arguments, or an object of it ({name} needs {needed})")
    _check_signature(found, path, key)
    return found


def make_callable(path: str, key: str) -> Callable[..., Any]:
    """Return what FILE.py:NAME calls: a class is instantiated. Raises InputError as `find_callable`."""
    found = find_callable(path, key)
    if not isinstance(found, type):
        return found
    try:
        made: Callable[..., Any] = found()
    except Exception as error:
        raise InputError(key, path, f"a class that can be instantiated ({brief(error)})") from error
    return made


def release(paths: Iterable[str]) -> None:
    """Let the next `find_callable` import these files anew: a later run in this process gets objects of its own."""
    for folder in {Path(path.rpartition(":")[0]).resolve().parent for path in paths}:
        if folder in _FOLDERS:
            _FOLDERS[folder].taken = True


def imported_files(path: str) -> list[Path]:
    """Return the files that FILE.py:NAME was imported from: FILE and those of its neighbours that were imported."""
    folder = _FOLDERS.get(Path(path.rpartition(":")[0]).resolve().parent)
    return [] if folder is None else sorted(Path(file) for file in folder.stamps)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a callable's parameters by name; of a class those of its objects.

    A wrapper that takes anything, `*args` and `**kwargs` alone, has the parameters of the one callable that it holds,
    as a decorator without functools.wraps does.

    Raises:
        ValueError, TypeError: Python does not know the parameters, as of some functions in C.
    """
    if isinstance(function, type):
        parameters = list(inspect.signature(vars_of(function)["__call__"]).parameters.values())[1:]
    else:
        parameters = list(inspect.signature(function).parameters.values())
    if parameters and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        held = _held(function)
        if len(held) == 1:
            return parameters_of(held[0])
    return {p.name: p for p in parameters}


def brief(error: BaseException) -> str:
    """Describe what the user's code raised on one line: type, message, and the place in the user's files."""
    message = re.sub(r"\balign_user_\d+\.", "", " ".join(str(error).split()))
    said = f"{type(error).__name__}: {message[:160]}" if message else type(error).__name__
    places = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return f"{said}, {Path(places[-1].filename).name} line {places[-1].lineno}" if places else said


def vars_of(kind: type) -> dict[str, Any]:
    """Return the attributes of a class, inherited ones included; not those of its metaclass."""
    return {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}


def _imported(file: Path, path: str, key: str) -> ModuleType:
    folder = _FOLDERS.get(file.parent)
    if folder is None or folder.taken or folder.changed:
        if folder is not None:
            folder.remove()
        folder = _FOLDERS[file.parent] = _Folder(file.parent)
        importlib.invalidate_caches()
    try:
        return folder.module(file)
    except (Exception, SystemExit) as error:
        why = brief(error)
        folder.remove()
        del _FOLDERS[file.parent]
        raise InputError(key, path, f"a file that can be imported ({why})") from error


def _callables(module: ModuleType) -> str:
    """List the names in a module that can be called, its own first."""
    found = {n: v for n, v in vars(module).items() if callable(v) and not n.startswith("_")}
    names = sorted(found, key=lambda n: getattr(found[n], "__module__", None) != module.__name__)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}" if names else "none"


def _check_signature(function: Callable[..., Any], path: str, key: str) -> None:
    try:
        parameters_of(function)
    except (ValueError, TypeError) as error:
        raise InputError(key, path, "a function whose parameters have names in Python (wrap it in one)") from error


def _required(kind: type) -> str:
    """Name the arguments that a class cannot be instantiated without."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (ValueError, TypeError):
        return ""
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return ", ".join(p.name for p in parameters if p.default is p.empty and p.kind not in rest)


def _held(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the callables that a function closes over, or that an object keeps as attributes; a module's `forward`."""
    while isinstance(function, functools.partial):
        function = function.func
    if callable(forward := getattr(function, "forward", None)):
        return [forward]
    cells = getattr(function, "__closure__", None) or ()
    own = vars(function).values() if not inspect.isroutine(function) and hasattr(function, "__dict__") else ()
    held = [*(cell.cell_contents for cell in cells), *own]
    return [value for value in held if callable(value) and not isinstance(value, type)]


def _is_users(filename: str) -> bool:
    return any(filename in finder.stamps for finder in sys.meta_path if isinstance(finder, _Folder))


def _stamp(path: str) -> tuple[int, int]:
    """Return what changes with a file; zeros where it is gone."""
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
