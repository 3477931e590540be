"""The benchmarks, one file each: every module here with a `TASKS` tuple adds its tasks."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable

from alignbench.errors import AlignbenchError
from alignbench.types.task import Task


def all_tasks() -> dict[str, Task]:
    """Name -> task, in alphabetical order."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    tasks = [task for module in modules for task in getattr(module, "TASKS", ())]
    return {task.name: task for task in sorted(tasks, key=lambda task: task.name)}


LM_EVAL = "lm_eval:"  # before the names of lm-evaluation-harness's tasks


def find_names(patterns: Iterable[str]) -> list[str]:
    """The names of tasks that are meant; `lm_eval:NAME` may be a group. Raises AlignbenchError if one means none."""
    found = dict[str, None]()
    for pattern in patterns:
        if pattern.startswith(LM_EVAL):
            from alignbench.tasks.lm_eval import expand

            found |= dict.fromkeys(expand(pattern))
        else:
            found[pattern] = None
    return list(found)


def find_task(name: str) -> Task:
    """The task of that name; an unknown one raises AlignbenchError with the nearest names."""
    if name.startswith(LM_EVAL):
        from alignbench.tasks.lm_eval import find

        return find(name)
    tasks = all_tasks()
    if name in tasks:
        return tasks[name]
    raise AlignbenchError(f"unknown task {name!r}{near(name, tasks) or ': see `alignbench tasks`'}")


def near(name: str, known: Iterable[str]) -> str:
    """ ": did you mean … or …?" of the known names that are the most similar; empty if none is similar."""
    found = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f": did you mean {' or '.join(found)}?" if found else ""
