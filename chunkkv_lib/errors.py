"""The one exception for a user's mistake, its most common form, and the one for a run with gaps."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake the user can mend. Its message is one line: the value, the limit, the remedy.

    The command line prints the message and exits with status 2; any other exception is ours and keeps its traceback.
    """


class IncompleteRun(Exception):
    """A run that ended without some of its sequences. Its message is one line that names them; exit status 1."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in `known`, with the nearest name that is."""
    known = list(known)
    near = difflib.get_close_matches(str(name).lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    hint = "".join(f" Did you mean {k!r}?" for k in known if near and k.lower() == near[0])
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def check_known(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise `unknown` for a name that is not in `known`."""
    if name not in known:
        raise unknown(kind, name, known)


def check_whole(least: int | None = 1, **values: object) -> None:
    """Raise InputError for a value that is not an int, or below `least` (None: no limit)."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            limit = "" if least is None else f" of at least {least}"
            raise InputError(f"{name}={value!r} does not work; it must be a whole number{limit}.")
