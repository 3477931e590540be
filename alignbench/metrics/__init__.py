"""Our text metrics as modules of Hugging Face's evaluate, which load without a network:

    evaluate.load(alignbench.metrics.path("squad_f1")).compute(predictions=[...], references=[...])
    evaluate.combine([alignbench.metrics.path(name) for name in ("rouge_l", "corpus_bleu")])

Each is a folder with a script of its name, which evaluate copies into its cache and runs there.
"""

from pathlib import Path

from alignbench.errors import AlignbenchError

SCRIPTS = {file.stem: file for file in sorted(Path(__file__).parent.glob("*/*.py")) if file.stem == file.parent.name}


def path(name: str) -> str:
    """The folder to pass to `evaluate.load`."""
    if name not in SCRIPTS:
        raise AlignbenchError(f"metrics: there is no {name!r}; there are {', '.join(SCRIPTS)}")
    return str(SCRIPTS[name].parent)
