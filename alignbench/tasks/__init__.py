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


def expand(names: Iterable[str]) -> list[str]:
    """Distinct names of tasks: a group of lm-eval's is its tasks. Raises AlignbenchError for one that it lacks."""
    found: dict[str, None] = {}
    for name in names:
        own = [name]
        if name.startswith(LM_EVAL):
            from alignbench.tasks.lm_eval import expand as expand_lm_eval

            own = expand_lm_eval(name)
        found |= dict.fromkeys(own)
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
