"""`alignbench export`: results in the formats of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from alignbench.console import write_text
from alignbench.errors import AlignbenchError

RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
Out = Annotated[Path | None, typer.Option(help="File (hf, parquet) or folder (every-eval-ever, lm-eval) to write.")]


def export(
    to: Annotated[
        str, typer.Argument(help="hf, every-eval-ever, lm-eval, parquet, wandb, mlflow, trackio.", metavar="FORMAT")
    ],
    models: Annotated[list[str], typer.Argument(help="Run folders, or names of runs or their beginnings.")],
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    out: Out = None,
    project: Annotated[str, typer.Option(help="Project or experiment of a tracker.")] = "alignbench",
    organization: Annotated[str, typer.Option(help="Evaluating organization (every-eval-ever).")] = "unknown",
    relationship: Annotated[
        str, typer.Option(help=f"Evaluator's relation to the model's developer: {', '.join(RELATIONSHIPS)}.")
    ] = "other",
) -> None:
    """Export the results of finished runs to model cards (hf), files of other tools, and formats."""
    from alignbench.exports import formats
    from alignbench.runs.read import read_runs

    if to not in (known := ("hf", "every-eval-ever", "lm-eval", "parquet", *formats.TRACKERS)):
        raise AlignbenchError(f"export {to}: choose {', '.join(known)}")
    if relationship not in RELATIONSHIPS:
        raise AlignbenchError(f"--relationship {relationship}: choose {', '.join(RELATIONSHIPS)}")
    found = read_runs(models, runs)
    if to in formats.TRACKERS:
        for run in found:
            formats.to_tracker(to, run, project)
            print(f"{run.name}: exported to {to}")
        return
    if out is None:
        raise AlignbenchError(f"export {to}: needs --out, the file or folder to write")
    if to == "hf" and len(found) != 1:
        raise AlignbenchError(f"export hf: a model card is of one model, not {len(found)}")
    if to != "parquet" and len({run.path.name for run in found}) < len(found):
        raise AlignbenchError(
            f"export {to}: two runs have folders of one name, which is that of their file; export each"
        )
    if to == "parquet":
        formats.to_parquet(found, out)
        print(f"{len(found)} run{'s' * (len(found) != 1)}: {out}")
        return
    for run in found:
        if to == "hf":
            file, text = out, formats.to_model_card(run, out)
        elif to == "every-eval-ever":
            file, text = out / f"{run.path.name}.json", formats.to_every_eval_ever(run, organization, relationship)
        else:
            file, text = out / run.path.name / "results_alignbench.json", formats.to_lm_eval(run)
        write_text(file, text, with_folder=to != "hf")
        hint = f" (no audit card of this model beside it: see `alignbench compare --card {file.parent}`)"
        print(f"{run.name}: {file}{hint if to == 'hf' and not formats.has_audit_card(run, file.parent) else ''}")
