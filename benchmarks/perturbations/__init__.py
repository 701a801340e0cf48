"""What is held out of each data set, and who predicts it."""

from .predictors import PREDICTORS
from .tasks import CONTROL, TASKS, Question, Task

__all__ = ["CONTROL", "PREDICTORS", "TASKS", "Question", "Task"]
