"""Check a student's function, or a method of one's own.

    from chunkkv_lib.exercises import check, check_method, example, tasks
    check("column_sums", my_column_sums)    # says what is right or wrong, returns True or False
    example("column_sums", seed=7, round=2) # the inputs on which it was wrong
    check_method(MyMethod)                  # whether a compressor keeps the promises of chapter 10
    tasks()                                 # what can be checked, and what each function takes and returns

`inputs` draws what a function is called with, `tasks` says what is right and which mistakes are common, `tasks.yml`
what is asked, with hints, `checking` compares, and `methods` knows the rules of a compressor.
"""

from .checking import TASKS, check, example, tasks
from .methods import check_method

__all__ = ["TASKS", "check", "check_method", "example", "tasks"]
