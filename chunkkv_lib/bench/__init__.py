"""What the analysis costs: time and memory against a plain prefill, the arithmetic's limit, and a peer.

    bench(lengths=(1024, 2048))              # measure, print, write JSON        (driver)
    load_report("data/bench/cpu.json")       # read it back as data frames       (report, cost_tables)

`worker` measures inside one process; `ours` and `kvpress_cases` say what is measured there, each in its own
environment; `peers` makes the peer's. `pieces` times and records single pieces of one layer. Importing this package is
cheap: the workers' processes import it too.
"""

from importlib import import_module as _import_module

_HOME = {"bench": "driver", "load_report": "report", "Report": "report"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOME[name]}", __name__), name)
