"""kloc-artifact: re-run, measure and judge \"Does Knowledge Localization Hold True?\" (CIKM 2024).

The names in `__all__` are stable: they keep their meaning and arguments between versions. docs/python.md uses each of
them. A name's module is loaded when the name is first asked for, so that importing the package is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "Fact": "facts.fact",
    "PERSPECTIVES": "facts.fact",
    "Statement": "facts.fact",
    "TraceSettings": "tracing.trace",
    "WORLD": "sources.catalogue",
    "generate": "evaluation.generate",
    "load": "lm.load",
    "make_editor": "runs.editors",
    "noise_level": "runs.noise",
    "protocol_of": "editing.protocol",
    "read_facts": "facts.records",
    "score_cases": "evaluation.score",
    "trace": "tracing.trace",
    "trace_figure": "reporting.figures",
    "write_edit": "editing.edit_file",
    "write_model": "editing.apply",
}
"""The module of each exported name."""
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
