"""The one exception of a build that stops."""

from __future__ import annotations

from chunkkv_lib.errors import InputError


class BookError(InputError):
    """The build stopped and the finished site was not touched; the message says what to look at."""
