"""The user's own classes: modules in local/, which are trusted as train.py itself is.

A class is trusted by the file that defines it, whatever name it is reached by.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from midstate.common.checks import near
from midstate.common.errors import first_line
from midstate.common.project import LOCAL


def has_module(target: str) -> bool:
    """Tell whether a target's first name is a module, or a package, in local/."""
    first = target.partition(".")[0]
    return first.isidentifier() and ((LOCAL / f"{first}.py").is_file() or (LOCAL / first).is_dir())


def near_module(target: Any) -> str:
    """Suggest modules of local/ whose names are near the first name of a target."""
    known = [path.stem for path in LOCAL.glob("*.py")] if LOCAL.is_dir() else []
    return near(str(target).partition(".")[0], known)


def is_local(found: type) -> bool:
    """Tell whether a file in local/ defines a class."""
    return _lies_in_local(getattr(sys.modules.get(found.__module__), "__file__", None))


def find(target: str) -> Any:
    """Import and return the object that a target names in a module of local/.

    Raises:
        ValueError: an installed module has that name, the module cannot be imported, or has no such name.
    """
    if str(LOCAL) not in sys.path:
        sys.path.append(str(LOCAL))  # last: it hides no module of others
    first, *names = target.split(".")
    _check_not_hidden(first)
    found = _imported(first)
    for i, name in enumerate(names, start=2):
        typed, module = (".".join(target.split(".")[:length]) for length in (i - 1, i))
        is_package = hasattr(found, "__path__") and found.__name__ == typed  # not one that a module has imported
        if not hasattr(found, name) and is_package and importlib.util.find_spec(module):
            _imported(module)
        if not hasattr(found, name):
            known = [each for each in dir(found) if not each.startswith("_")]
            raise ValueError(f"{_shown(found, typed)} has no {name}{near(name, known)}")
        found = getattr(found, name)
    return found


def sources(target: str) -> set[Path]:
    """The files in local/ that a class depends on: its module's, and those of local modules imported by these.

    Imports by a name that is only known at run time are not found.
    """
    seen, todo = set(), list(_files(target))
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += [each for name in _imports(file) for each in _files(name)]
    return seen


def _files(name: str) -> Iterator[Path]:
    """The files in local/ of a dotted name's modules: for a.b.C those of a and a.b."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        place = LOCAL.joinpath(*parts[:i])
        yield from (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file())


def _imports(file: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, also inside functions."""
    package = file.relative_to(LOCAL).parent.parts
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}".lstrip(".") for alias in node.names)


def _check_not_hidden(first: str) -> None:
    """Raise ValueError if another module of that name comes first on sys.path, without importing it."""
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:  # a module without a spec, as __main__
        spec = None
    places = [spec.origin] if spec and spec.origin else list((spec and spec.submodule_search_locations) or [])
    if not places or not all(map(_lies_in_local, places)):
        other = next((place for place in places if not _lies_in_local(place)), "another module")
        own = f"{first}.py" if (LOCAL / f"{first}.py").is_file() else first
        raise ValueError(f"local/{own}: {other} has the same name and comes first; give yours another name")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_where(error, name)}: cannot be imported ({_what(error)})") from error


def _where(error: BaseException, name: str) -> str:
    """Innermost file and line in local/ at which an import has failed."""
    lines = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        lines.append((error.filename, error.lineno))
    for file, number in reversed(lines):
        if file and _lies_in_local(file):
            return f"local/{Path(file).relative_to(LOCAL)}, line {number}"
    return f"local/{name}"


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else first_line(error)}"


def _shown(found: Any, typed: str) -> str:
    """The file of a module or class as a message names it; the name by which it was typed if it is not in local/."""
    file = getattr(inspect.getmodule(found), "__file__", None)
    return f"local/{Path(file).relative_to(LOCAL)}" if _lies_in_local(file) else typed


def _lies_in_local(file: str | None) -> bool:
    return file is not None and Path(file).is_relative_to(LOCAL)
