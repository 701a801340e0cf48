"""Tasks, predictors and scores of the benchmark in space."""

from .genes import METHODS, gene_rows
from .predictors import PREDICTORS, Answer
from .reporting import report
from .scores import score
from .tasks import PARTS, Task, tasks

__all__ = [
    "METHODS",
    "PARTS",
    "PREDICTORS",
    "Answer",
    "Task",
    "gene_rows",
    "report",
    "score",
    "tasks",
]
