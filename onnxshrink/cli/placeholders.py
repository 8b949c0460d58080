"""Import pass modules for their names, fields and docstrings without the libraries that their code works with.

numpy, onnx and onnx_ir take most of a second to import; a list of passes needs none of what they do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def placeholder_modules(*packages: str) -> Iterator[None]:
    """Inside the block, importing ``packages`` gives empty stand-ins; afterwards no module that saw them is left.

    Nothing happens when one of the packages has been imported already: then the price is paid.
    """
    if any(package in sys.modules for package in packages):
        yield
        return
    before = set(sys.modules)
    finder = _Finder(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in (*packages, "onnxshrink"):
                del sys.modules[name]


class _Placeholder(ModuleType):
    """Has every attribute; each is a placeholder again, and calling or indexing one gives another."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(f"{self.__name__}.{name}")

    def __call__(self, *_: object, **__: object) -> Any:
        return self

    def __getitem__(self, _: object) -> Any:
        return self


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._packages:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """A placeholder has nothing to run."""
