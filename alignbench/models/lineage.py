"""Lineages of checkpoints: from our trainers' recipe.json, and from what others leave in a folder.

Others leave a model card (README.md) with `base_model` and tags, an adapter's adapter_config.json, and the
trainer_state.json of transformers and TRL. training_args.bin is pickled and never opened.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.parse import parse_yaml, read_object

ROLES = ("base", "sft", "dpo", "grpo", "rlvr", "merged")
ALIGNED = "aligned"  # trained from another model, in a way that is not recorded
# of a card's tags or of a name, in this order: TRL names its method in the tags
TAGS = {"rlvr": "rlvr", "grpo": "grpo", "rloo": "grpo", "dpo": "dpo", "merge": "merged", "mergekit": "merged"}
TAGS |= {"sft": "sft"}
# keys of the log in trainer_state.json that only TRL's trainer of this kind writes
LOGGED = {"rewards/margins": "dpo", "frac_reward_zero_std": "grpo", "mean_token_accuracy": "sft"}
MOST = 8  # bases of a merged model that are read


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint in a lineage: the stage that produced it (base, sft, dpo, grpo, rlvr, merged; reward, rejection,
    ppo, ppo-ptx, rloo, average of our trainers; best-of-n of a checkpoint spec; aligned if it is not recorded) and the
    hash of its weights, "" if it is not known."""

    stage: str
    name: str
    weights_sha256: str = ""


def recorded_lineage(
    folder: Path, name: str, weights: str = "", seen: frozenset[Path] = frozenset()
) -> tuple[Ancestor, ...]:
    """From the base model to the model in `folder`, as far as its files say; () if they name no base model. A base that
    is a local folder has a lineage of its own; another is the pretrained model, unless its name says otherwise."""
    card = _card(folder / "README.md")
    adapter = _object(folder / "adapter_config.json").get("base_model_name_or_path")
    bases = card.get("base_model") or adapter or []
    bases = [str(base) for base in (bases if isinstance(bases, list) else [bases]) if 0 < len(str(base)) < 256][:MOST]
    if not bases:
        return ()
    before: dict[str, Ancestor] = {}
    seen |= {folder.resolve()}
    for base in bases:
        local = next((path for path in (Path(base), folder / base, folder.parent / base) if path.is_dir()), None)
        short = local.resolve().name if local is not None else base
        own = () if local is None or local.resolve() in seen else recorded_lineage(local, short, seen=seen)
        for ancestor in own or (Ancestor(_named(short) or "base", short),):
            before.setdefault(ancestor.name, ancestor)
    tags = card["tags"] if isinstance(card.get("tags"), list) else []
    return (*before.values(), Ancestor(_role(folder, [str(tag) for tag in tags], name, len(bases)), name, weights))


def read_lineages(file: str | Path) -> dict[str, list[Ancestor]]:
    """Model -> its lineage, of a YAML or JSON file: {MODEL: BASE} or {MODEL: {base: BASE, role: ROLE}}. Raises
    AlignbenchError for another form, an unknown role, and for a model that is its own ancestor."""
    try:
        content = parse_yaml(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AlignbenchError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    given: dict[str, tuple[str | None, str]] = {}
    for model, entry in content.items() if isinstance(content, dict) else [("the file", None)]:
        own = {"base": entry} if isinstance(entry, str) else entry
        if not isinstance(own, dict) or not own or not own.keys() <= {"base", "role"}:
            raise AlignbenchError(f"{file}: {model}: expected MODEL: {{base: MODEL, role: ROLE}}")
        base, role = own.get("base"), own.get("role") or (ALIGNED if own.get("base") else "base")
        if role not in (*ROLES, ALIGNED):
            raise AlignbenchError(f"{file}: {model}: role {role!r}: choose {', '.join(ROLES)}")
        given[str(model)] = (None if base is None else str(base), role)
    found = {}
    for model in given:
        lineage: dict[str, Ancestor] = {}
        name: str | None = model
        while name is not None:
            if name in lineage:
                raise AlignbenchError(f"{file}: {name} is its own ancestor")
            base, role = given.get(name, (None, _named(name) or "base"))
            lineage[name], name = Ancestor(role, name), base
        found[model] = list(reversed(lineage.values()))
    return found


def _role(folder: Path, tags: Sequence[str], name: str, bases: int) -> str:
    tagged = next((role for tag, role in TAGS.items() if tag in tags), None)
    history = _object(folder / "trainer_state.json").get("log_history")
    keys = {key for entry in history if isinstance(entry, dict) for key in entry} if isinstance(history, list) else ()
    logged = next((role for key, role in LOGGED.items() if key in keys), None)
    return tagged or logged or ("merged" if bases > 1 else _named(name) or ALIGNED)


def _named(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.rpartition("/")[2].lower())
    return next((role for tag, role in TAGS.items() if tag in words), None)


def _card(file: Path) -> dict[str, Any]:
    """The front matter of a model card; {} without one, or if it cannot be read."""
    try:
        match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", file.read_text("utf-8"), re.DOTALL)
        found = parse_yaml(match[1]) if match else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _object(file: Path) -> dict[str, Any]:
    try:
        return read_object(file, number=float)
    except (FileNotFoundError, AlignbenchError):
        return {}
