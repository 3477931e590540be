"""Weight averaging: checkpoints on the line between two, for the reward–tax front (arXiv 2309.06256, 2109.01903)."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import save_torch_state_dict
from transformers import AutoModelForCausalLM

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import TEMPLATE_FILES, Ancestor, Checkpoint, CheckpointError, tokenizer_files
from alignbench.models.load import loading
from alignbench.progress import Progress
from alignbench.runs.folder import read_object, sync, write_json, writing
from trainers.models import find_plain
from trainers.run import Origin, identity

COPIED = ("config.json", "generation_config.json", *TEMPLATE_FILES)


def average(
    base: str, aligned: str, alphas: Sequence[float], out: Path, *, progress: Progress | None = None
) -> list[Path]:
    """Write `out`/alpha-A for each alpha A: weights (1 - A)·BASE + A·ALIGNED, all other files from ALIGNED.

    base, aligned: folders or hub ids of two checkpoints of one architecture; both are loaded into memory
    alphas: each in [0, 1]; 0 gives BASE's weights, 1 ALIGNED's
    out: an existing folder is kept if it holds the same average

    The sum is computed in float32 (float64 if one of the two is), and stored in ALIGNED's number format. Returns the
    folders in the order of alphas. Raises AlignbenchError if the two cannot be averaged, or `out` cannot be written.
    """
    progress = progress or Progress()
    alphas = list(dict.fromkeys(alpha + 0.0 for alpha in alphas))  # -0.0 becomes 0.0
    if wrong := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
        raise AlignbenchError(f"alpha {wrong[0]}: it must be a number from 0 (BASE) to 1 (ALIGNED)")
    ours, theirs = find_plain(base), find_plain(aligned)
    if ours.weights_sha256 == theirs.weights_sha256:
        raise AlignbenchError(f"{base} and {aligned}: the same weights; name two different checkpoints")
    pairs = _pair(ours, theirs)
    lineage = theirs.lineage or ours.lineage or (Ancestor("base", ours.name, ours.weights_sha256),)
    models = {"base": identity(ours)}
    for recipe in (read_object(side.path / "recipe.json") or {} for side in (ours, theirs)):
        models |= {role: found for role, found in recipe.get("models", {}).items() if role == "reward"}
    origin = Origin("average", replace(theirs, lineage=lineage), models, [])

    # the average is used in the same way as ALIGNED
    copied = [theirs.path / name for name in COPIED if (theirs.path / name).is_file()] + tokenizer_files(theirs.path)
    folders = {alpha: out / f"alpha-{str(alpha).removesuffix('.0')}" for alpha in alphas}
    todo = {alpha: folder for alpha, folder in folders.items() if not _is_complete(folder, copied, origin, alpha)}
    for alpha in folders.keys() - todo.keys():
        progress.say(f"{folders[alpha]}: already complete")
    progress.start("average", len(todo), unit="checkpoints")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for alpha, folder in todo.items():
            with TemporaryDirectory(prefix=".partial-", dir=out) as temporary:
                partial = Path(temporary) / folder.name
                partial.mkdir()
                for file in copied:
                    shutil.copyfile(file, partial / file.name)
                mixed = {name: mix(*pair, alpha) for name, pair in pairs.items()}
                save_torch_state_dict(mixed, partial, max_shard_size="1GB")
                write_json(partial / "recipe.json", origin.recipe({"alpha": alpha}, {}))
                for file in partial.iterdir():
                    sync(file)
                progress.advance()
                partial.rename(folder)
    return list(folders.values())


def mix(base: torch.Tensor, aligned: torch.Tensor, alpha: float) -> torch.Tensor:
    """(1 - alpha)·base + alpha·aligned, in the number format of `aligned`; equal values are unchanged."""
    if alpha in (0, 1):  # a sum would turn -0 into 0, and an infinity times 0 into NaN
        return (aligned if alpha else base).to(aligned.dtype)
    wide = torch.float64 if torch.float64 in (base.dtype, aligned.dtype) else torch.float32
    return torch.lerp(base.to(wide), aligned.to(wide), alpha).to(aligned.dtype)


def _load(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The parameters and buffers by name; tied ones are one object."""
    options = {"dtype": "auto", "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    with loading(checkpoint, "a causal language model"):
        model, report = AutoModelForCausalLM.from_pretrained(checkpoint.path, **options)
    if wrong := sorted({*report["missing_keys"], *report["unexpected_keys"]}):
        raise CheckpointError(checkpoint.name, f"{wrong[0]} is missing, or not part of a causal language model")
    if getattr(model.config, "quantization_config", None) is not None:
        raise CheckpointError(checkpoint.name, "quantised weights; dequantise them first")
    return dict(model.requires_grad_(False).state_dict(keep_vars=True))


def _pair(base: Checkpoint, aligned: Checkpoint) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """BASE's and ALIGNED's tensor by name; tied tensors have the name of the first one."""
    both = f"{base.name} and {aligned.name}"
    if base.model_type != aligned.model_type:
        kinds = f"a {base.model_type} and a {aligned.model_type}"
        raise AlignbenchError(f"{both}: {kinds}; only checkpoints of one architecture can be averaged")
    ours, theirs = _load(base), _load(aligned)
    if different := sorted(ours.keys() ^ theirs.keys()):
        owner = base if different[0] in ours else aligned
        raise AlignbenchError(f"{both}: only {owner.name} has {different[0]}")
    pairs, names = {}, dict[torch.Tensor, str]()
    for name, other in theirs.items():
        one, source = ours[name], names.setdefault(other, name)
        if one.shape != other.shape:
            shapes = f"{list(one.shape)} in one and {list(other.shape)} in the other"
            hint = "if training added tokens, resize the smaller one first (resize_token_embeddings)"
            raise AlignbenchError(f"{both}: {name} is {shapes}; {hint}")
        if source == name:
            pairs[name] = (one, other)
        elif not torch.equal(one, ours[source]):
            owners = f"separate values in {base.name}, but is tied to {source} in {aligned.name}"
            raise AlignbenchError(f"{both}: {name} has {owners}")
    return pairs


def _is_complete(folder: Path, copied: Sequence[Path], origin: Origin, alpha: float) -> bool:
    """True if the folder holds this average. Raises AlignbenchError if it holds anything else."""
    if not folder.exists():
        return False
    expected, found = origin.recipe({"alpha": alpha}, {}), read_object(folder / "recipe.json") or {}
    same = all(found.get(name) == expected[name] for name in ("stage", "config", "parent", "models"))
    files = [folder / file.name for file in copied]
    if same and any(folder.glob("*.safetensors")) and all(map(Path.is_file, files)):
        return True
    raise AlignbenchError(f"{folder}: it does not hold this average; remove it, or choose another --out")
