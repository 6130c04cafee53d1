"""The engine behind expressions, without the command line that its package imports along.

`import cel` also loads an interactive shell with its terminal libraries: about ten megabytes and a fifth of the
processor time in which a saga or projection worker starts, in every pod.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Final

#: The compiled part of the package: all of the language is in it.
_MODULE: Final = "cel.cel"


def compile_source(source: str) -> Any:
    """A program with execute(), functions() and variables(). Raises ValueError when `source` is no CEL expression."""
    return _ENGINE.compile(source)


def _load() -> ModuleType:
    """The engine; the same module that `import cel` shows, whichever of the two comes first."""
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = find_spec(_MODULE.partition(".")[0])  # finds it without running it
    spec = PathFinder.find_spec(_MODULE, package.submodule_search_locations if package else None)
    if spec is None or spec.loader is None:
        raise ImportError("the package common-expression-language is not installed as this program needs it")
    module = module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


_ENGINE: Final = _load()
