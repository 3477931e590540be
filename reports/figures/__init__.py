"""The figures, in the order of the page: title -> function that draws them, which raises NoDataError without data."""

from __future__ import annotations

from collections.abc import Callable

from reports.drawing import Drawing
from reports.evidence import Evidence
from reports.figures import (
    audit_forest,
    bias_entropy,
    labels,
    outputs,
    personas,
    review_sentiment,
    reward_tax_front,
    tax,
    token_entropy,
    toxicity,
    training_curves,
    truthfulness,
    win_rate,
)

FIGURES: dict[str, Callable[[Evidence], list[Drawing]]] = {
    "Gains and losses by task": audit_forest.draw,
    "Reward and tax": reward_tax_front.draw,
    "Win rate by model size": win_rate.draw,
    "Likert ratings": labels.likert,
    "Flags": labels.flags,
    "Truthfulness (TruthfulQA)": truthfulness.draw,
    "Toxicity by instruction": toxicity.by_instruction,
    "Toxicity of output and prompt": toxicity.by_prompt,
    "Bias: entropy of the choice": bias_entropy.draw,
    "Tasks with a possible alignment tax": tax.by_system,
    "Sweeps of the penalty weights": tax.penalty_sweeps,
    "Tasks over training": tax.over_training,
    "Personas: names and nationalities as word clouds": personas.clouds,
    "Personas: gender, age, nationality, name, opinion": personas.histograms,
    "Sentiment of reviews": review_sentiment.draw,
    "Map of outputs": outputs.embeddings_map,
    "Similarity of outputs": outputs.cosine_heat_map,
    "Token entropies": token_entropy.histogram,
    "Token entropy by position": token_entropy.curve,
    "Training curves": training_curves.draw,
    "Agreement between labelers": labels.agreement,
}
