"""Tasks: questions with answers that can be checked, one module for each family."""

from chatlib.tasks.base import Problem, Task, load_rows
from chatlib.tasks.mixture import Mixture, chat_tasks, open_task, rl_problems, sft_mixture
from chatlib.tasks.world import world_task

__all__ = [
    "Mixture",
    "Problem",
    "Task",
    "chat_tasks",
    "load_rows",
    "open_task",
    "rl_problems",
    "sft_mixture",
    "world_task",
]
