"""The benchmarks, one file each: every module here with a `TASKS` tuple adds its tasks, and so do plug-ins."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache

from alignbench.errors import AlignbenchError
from alignbench.plugins import plugins
from alignbench.types.task import Task


@cache
def _built_in() -> dict[str, Task]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {task.name: task for module in modules for task in getattr(module, "TASKS", ())}


def all_tasks() -> dict[str, Task]:
    """Name -> task, in alphabetical order. Raises AlignbenchError for a plug-in without a name of its own."""
    found = dict(_built_in())
    for plugin in plugins("tasks"):
        if not isinstance(plugin.value, Task):
            raise AlignbenchError(f"{plugin.origin}: TASKS has {plugin.value!r}, which is no Task")
        if plugin.value.name in found:
            raise AlignbenchError(f"{plugin.origin}: there is a task {plugin.value.name!r} already; rename it")
        found[plugin.value.name] = replace(plugin.value, definition=plugin.sha256)
    return dict(sorted(found.items()))


LM_EVAL = "lm_eval:"  # before the names of lm-evaluation-harness's tasks


def find_task(name: str) -> Task:
    """The task of that name; an unknown one raises AlignbenchError with the nearest names."""
    if name.startswith(LM_EVAL):
        from alignbench.tasks.lm_eval import find

        return find(name)
    tasks = all_tasks()
    if name in tasks:
        return tasks[name]
    near = difflib.get_close_matches(name, tasks, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `alignbench tasks`"
    raise AlignbenchError(f"unknown task {name!r}: {hint}")


def find_names(patterns: Iterable[str]) -> list[str]:
    """The names of tasks that are meant by names, patterns ("winogender*"), abilities ("truthfulness"), groups of
    capabilities ("reading") and families. A task's name takes precedence. Raises AlignbenchError if one means none."""
    tasks, found = all_tasks(), dict[str, None]()
    for pattern in patterns:
        if pattern.startswith(LM_EVAL):
            from alignbench.tasks.lm_eval import expand

            found |= dict.fromkeys(expand(pattern))
            continue
        own = [pattern] if pattern in tasks else [name for name in tasks if fnmatchcase(name, pattern)]
        own = own or [n for n, task in tasks.items() if pattern in (task.ability, task.group, task.family)]
        found |= dict.fromkeys(own or [find_task(pattern).name])
    return list(found)
