"""The figures, in the order of the page: title -> function that yields its drawings, none if the runs have no data."""

from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from reports.drawing import Drawing
from reports.evidence import Evidence
from reports.figures import audit, calibration, diversity, kl, personas, preference, safety, samples, tax, trainings

FIGURES: dict[str, Callable[[Evidence], Iterator[Drawing]]] = {
    "Gains and losses by ability": audit.summary,
    "Gains and losses by task": audit.forest,
    "Reward and tax": audit.front,
    "KL by position and prompt category": kl.profile,
    "Gains and costs against KL": kl.against_kl,
    "Win rate by model size": preference.win_rate,
    "Likert ratings": preference.likert,
    "Flags": preference.flags,
    "Truthfulness (TruthfulQA)": safety.truthfulness,
    "Toxicity by instruction": safety.toxicity,
    "Toxicity of output and prompt": safety.toxicity_by_prompt,
    "Bias: entropy of the choice": safety.bias,
    "Reliability diagrams": calibration.diagrams,
    "Tasks with a possible alignment tax": tax.by_system,
    "Sweeps of the penalty weights": tax.penalty_sweeps,
    "Several samples of one problem": samples.pass_at_k,
    "Tasks over training": trainings.over_training,
    "Metrics over steps": trainings.over_steps,
    "Personas: names and nationalities as word clouds": personas.clouds,
    "Personas: gender, age, nationality, name": personas.histograms,
    "Sentiment of reviews": personas.sentiment,
    "Map of outputs": diversity.embeddings_map,
    "Similarity of outputs": diversity.cosine_heat_map,
    "Token entropies": diversity.entropy_histogram,
    "Token entropy by position": diversity.entropy_curve,
    "Training curves": trainings.training_curves,
    "Agreement between labelers": preference.agreement,
}
MISSING: dict[str, str] = yaml.safe_load((Path(__file__).parent / "missing.yaml").read_text(encoding="utf-8"))
