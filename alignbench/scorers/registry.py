"""Find the scorer that `KIND=NAME` or `KIND=NAME:PATH` names. Its module is imported when it is loaded."""

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from alignbench.errors import AlignbenchError
from alignbench.plugins import plugins
from alignbench.types.engine import THINKING, Thinking
from alignbench.types.scorer import Scorer


@dataclass(frozen=True)
class ScorerSpec:
    """A row of scorers.yaml.

    factory: "module:callable", a module of this package or by its full name, or the callable. It is called with
        those of kind, name, path, device and trust_remote_code that it has parameters for
    path: what follows the colon; "" if the scorer takes no path
    requires: a package that must be installed, and what to pass to `pip install`; empty if there is none
    cached: "module:callable" of `name`, which returns True if the published weights are on this machine. Only a scorer
        with published weights has one, and its path may be omitted
    default: tasks use this scorer of its kind unless the user names another
    """

    kind: str
    name: str
    factory: str | Callable[..., Any]
    path: str = ""
    licence: str = "Apache-2.0"
    download: str = "none"
    requires: Sequence[str] = ()
    cached: str = ""
    default: bool = False

    @property
    def spec(self) -> str:
        """The specification, as the user writes it."""
        if self.kind == "evaluate":
            return f"evaluate={self.path}"
        path = f"[:{self.path}]" if self.cached else f":{self.path}" if self.path else ""
        return f"{self.kind}={self.name}{path}"

    def missing(self) -> str | None:
        """What the scorer needs before it can be loaded without a path; None if nothing."""
        if self.path and not self.cached:
            return "needs a path"
        if self.requires and find_spec(self.requires[0]) is None:
            return f"pip install '{self.requires[1]}'"
        return "to be downloaded, or give a path" if self.cached and not _resolve(self.cached)(self.name) else None


SCORERS = [ScorerSpec(**row) for row in yaml.safe_load(Path(__file__).with_name("scorers.yaml").read_text("utf-8"))]
DEFAULTS = {row.kind: f"{row.kind}={row.name}" for row in SCORERS if row.default}


def all_scorers() -> list[ScorerSpec]:
    """Our scorers and those of plug-ins. Raises AlignbenchError for a plug-in that is none, or has a taken name."""
    found = list(SCORERS)
    for plugin in plugins("scorers"):
        if not isinstance(plugin.value, ScorerSpec):
            raise AlignbenchError(f"{plugin.origin}: SCORERS has {plugin.value!r}, which is no ScorerSpec")
        if any((row.kind, row.name) == (plugin.value.kind, plugin.value.name) for row in found):
            raise AlignbenchError(f"{plugin.origin}: there is a scorer {plugin.value.spec} already; rename it")
        found.append(plugin.value)
    return found


def find_scorer(
    spec: str, *, device: str = "cpu", trust_remote_code: bool = False, thinking: Thinking | None = THINKING
) -> Scorer:
    """Load the scorer that `KIND=NAME` or `KIND=NAME:PATH` names. thinking: of a judge that generates its verdict

    Raises AlignbenchError for an unknown kind or name, and if its weights or its package are missing.
    """
    row, path = look_up(spec)
    if path is None and row.path and not row.cached:
        raise AlignbenchError(f"scorer {spec}: it needs a checkpoint: {row.spec}")
    if path is not None and not row.path:
        raise AlignbenchError(f"scorer {spec}: it takes no path; write {row.spec}")
    if row.requires and find_spec(row.requires[0]) is None:
        raise AlignbenchError(f"scorer {spec}: not installed; pip install '{row.requires[1]}'")
    factory = _resolve(row.factory)
    given: dict[str, Any] = {"kind": row.kind, "name": row.name, "path": path, "device": device}
    given |= {"trust_remote_code": trust_remote_code, "thinking": thinking}
    scorer: Scorer = factory(**{key: given[key] for key in inspect.signature(factory).parameters if key in given})
    return scorer


def look_up(spec: str) -> tuple[ScorerSpec, str | None]:
    """Return the row that `spec` names, and its path. Raises AlignbenchError that lists the known names."""
    kind, _, rest = spec.partition("=")
    name, _, path = ("", "", rest) if kind == "evaluate" else rest.partition(":")
    if not name and not path:
        raise AlignbenchError(f"scorer {spec!r}: write KIND=NAME or KIND=NAME:PATH, such as {DEFAULTS['toxicity']}")
    known = all_scorers()
    rows = {row.name: row for row in known if row.kind == kind}
    if not rows:
        kinds = ", ".join(dict.fromkeys(row.kind for row in known))
        raise AlignbenchError(f"scorer {spec!r}: no kind {kind!r}; there are {kinds}")
    if name not in rows:
        raise AlignbenchError(f"scorer {spec!r}: no {kind} scorer {name!r}; there are {', '.join(rows)}")
    return rows[name], path or None


def _resolve(path: str | Callable[..., Any]) -> Callable[..., Any]:
    if callable(path):
        return path
    return pkgutil.resolve_name(path if "." in path else f"alignbench.scorers.{path}")  # type: ignore[no-any-return]
