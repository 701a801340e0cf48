"""What is held out of each data set, and who predicts it."""

from .predictors import PREDICTORS
from .tasks import TASKS, Question, Task

__all__ = ["PREDICTORS", "TASKS", "Question", "Task"]
