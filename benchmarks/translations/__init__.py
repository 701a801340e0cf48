"""Translations to make, what makes them, and what else several modalities are for."""

from .further import joint_rows, missing_rows
from .predictors import PREDICTORS
from .tasks import TASKS, Task, task

__all__ = ["PREDICTORS", "TASKS", "Task", "joint_rows", "missing_rows", "task"]
