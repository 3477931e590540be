"""The benchmarks, one file each: every module here with a `TASKS` tuple adds its tasks."""

import difflib
import importlib
import pkgutil

from alignbench.errors import AlignbenchError
from alignbench.types.task import Task


def all_tasks() -> dict[str, Task]:
    """Name -> task, in alphabetical order."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    tasks = [task for module in modules for task in getattr(module, "TASKS", ())]
    return {task.name: task for task in sorted(tasks, key=lambda task: task.name)}


def find_task(name: str) -> Task:
    """The task of that name; an unknown one raises AlignbenchError with the nearest names."""
    tasks = all_tasks()
    if name in tasks:
        return tasks[name]
    near = difflib.get_close_matches(name, tasks, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `alignbench tasks`"
    raise AlignbenchError(f"unknown task {name!r}: {hint}")
