"""User code as an input of a recipe: import it by name, and hash it without importing it.

A model's architecture, data and metric are named as `package.module:attribute`, so that Dagster can load a
code location without importing torch, and so that a change in that code changes the recipes it enters.
"""

import ast
import hashlib
import importlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from edge_assets.errors import EdgeAssetsError, InvalidSpec, UserCodeError, told, with_nearest


def locate(reference: str, field: str) -> Path:
    """The source file of `package.module:attribute`, found without importing the module itself.

    Raises InvalidSpec, naming `field`, if the reference is malformed, or the module or attribute is missing.
    """
    module, separator, attribute = reference.partition(":")
    if not (separator and module and attribute.isidentifier()):
        raise InvalidSpec(field, f"'{reference}' is not of the form 'package.module:attribute'")
    path = _find(module)
    if path is None:
        raise InvalidSpec(field, f"no module named '{module}' (from '{reference}')")
    defined = _top_level_names(path, path.stat().st_mtime_ns)
    if attribute not in defined:
        raise InvalidSpec(field, with_nearest(f"module '{module}' defines no '{attribute}'", attribute, defined))
    return path


def load(reference: str) -> Any:  # whatever the user's module has
    """The object that `package.module:attribute` names."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def call(reference: str, what: str, *arguments: object) -> Any:
    """What the user's function or class gives. Raises UserCodeError naming it, `what` it is, and what it raised."""
    try:
        return load(reference)(*arguments)
    except EdgeAssetsError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"{what} {reference} raised {told(error)}") from error


@cache
def source_digest(reference: str) -> str:
    """sha256 over the code of the named module and of every module of its own package that it imports.

    Comments, docstrings and layout do not count, so tidying code rebuilds nothing. Other packages do not
    count, apart from the tools that a recipe names.
    """
    module = reference.partition(":")[0]
    hasher = hashlib.sha256(reference.encode())
    for name in sorted(_closure(module)):
        hasher.update(name.encode())
        hasher.update(_code(_find(name)).encode())
    return hasher.hexdigest()


def imports_of(reference: str) -> set[str]:
    """What the named module, and every module of its own package that it imports, imports, by dotted names.

    An imported attribute is among them as `package.module.attribute`. Nothing is imported for it.
    """
    found: set[str] = set()
    for name in _closure(reference.partition(":")[0]):
        found.update(_imports(name))
    return found


def _closure(module: str) -> set[str]:
    root = module.partition(".")[0]
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or _find(name) is None:
            continue
        seen.add(name)
        if root == "edge_assets":
            continue  # the product's own code has its own code versions: only the user's modules are followed
        for imported in _imports(name):
            if imported.partition(".")[0] == root:
                waiting.append(imported)
    return seen


@cache
def _find(module: str) -> Path | None:
    """A module's source file, without importing its parent packages as `find_spec` would."""
    root, *parts = module.split(".")
    spec = importlib.util.find_spec(root)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _code(path: Path | None) -> str:
    if path is None:
        return ""
    tree = _parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _imports(module: str) -> Iterator[str]:
    path = _find(module)
    if path is None:
        return
    package = module
    if path.name != "__init__.py":
        package = module.rpartition(".")[0]
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _top_level_names(path: Path, _changed_ns: int) -> frozenset[str]:
    """What a module defines or imports. A spec names several things of one module: it is parsed once a change."""
    names: set[str] = set()
    for node in _parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                names.add(alias.asname or alias.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)
