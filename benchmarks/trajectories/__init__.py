"""Tasks, predictors and rulers of the trajectory benchmark."""

from .predictors import PREDICTORS, Population
from .rulers import Ruler
from .tasks import TASKS, Task, tasks

__all__ = ["PREDICTORS", "TASKS", "Population", "Ruler", "Task", "tasks"]
