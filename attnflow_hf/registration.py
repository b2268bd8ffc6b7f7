"""Makes `pipeline("text-attribution")` known to Transformers, whichever of the two packages is imported first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

_HOST, _OWN = "transformers.pipelines", "attnflow_hf.text_attribution"


def register() -> None:
    """Register the pipeline now, if Transformers' pipelines are loaded, or as soon as they will be.

    Nothing else is imported before that. A second call changes nothing.
    """
    if _HOST in sys.modules:
        import_module(_OWN)  # which registers itself, once
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Lets others find Transformers' pipelines, and adds to what is done when they are loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give; of all other modules `None`."""
        if name != _HOST:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            _register_after(spec)
        return spec


def _register_after(spec: ModuleSpec) -> None:
    """Let the loader of a spec register the pipeline once it has run the module."""
    run = spec.loader.exec_module  # type: ignore[union-attr]

    def run_and_register(module: ModuleType) -> None:
        run(module)
        if module.__name__ == _HOST:  # a loader may load several modules
            import_module(_OWN)

    spec.loader.exec_module = run_and_register  # type: ignore[union-attr, method-assign]
