"""One sequence x methods -> two tables (`analyse`), with written answers on request (`write_answers`)."""

from .analysis import analyse
from .generation import write_answers

__all__ = ["analyse", "write_answers"]
