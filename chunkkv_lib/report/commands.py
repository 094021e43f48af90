"""For the page of commands: the profiles, and the options of `measure`."""

from __future__ import annotations

from dataclasses import fields

import pandas as pd

from ..runs import Parameters, load_profile, profiles
from .tables import MISSING, myst_table


def profiles_table(name: str = "") -> str:
    """The profiles of data/profiles with what distinguishes them from the defaults."""
    defaults, rows = Parameters().as_dict(), []
    for profile in profiles():
        settings = load_profile(profile).as_dict()
        changed = [f"`{key}` {_value(value)}" for key, value in settings.items() if value != defaults[key]]
        rows.append({"Profile": f"`{profile}`", "Differs from the defaults in": ", ".join(changed) or "nothing"})
    return myst_table(pd.DataFrame(rows), "The profiles in `data/profiles`.", name)


def options_table(name: str = "") -> str:
    """Every option of `measure`, its default and its meaning, read from `Parameters`."""
    rows = []
    for one in fields(Parameters):
        flag = "--" + one.name.replace("_", "-")
        no = f", `--no-{flag[2:]}`" if one.type == "bool" else ""
        default = {True: "on", False: "off"}.get(one.default, one.default) if one.type == "bool" else one.default
        shown = MISSING if default is None else _value(default)
        rows.append({"Option": f"`{flag}`{no}", "Default": shown, "Meaning": one.metadata["help"]})
    caption = f"The options of `measure`. {MISSING}: none, or for a hyper-parameter what the preset says."
    return myst_table(pd.DataFrame(rows), caption, name)


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else "none" if value is None else str(value)
