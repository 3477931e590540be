"""The figures, in the order of the page. Each file has TITLE and `draw(evidence) -> list[Drawing]`."""

from __future__ import annotations

from types import ModuleType

from reports.figures import (
    audit_forest,
    bias_entropy,
    cosine_heat_map,
    embeddings_map,
    labeler_agreement,
    likert,
    metadata_flags,
    penalty_sweeps,
    persona_clouds,
    persona_histograms,
    review_sentiment,
    reward_tax_front,
    tax_over_training,
    tax_panels,
    token_entropy_curve,
    token_entropy_histogram,
    toxicity,
    toxicity_by_prompt,
    training_curves,
    truthfulness,
    win_rate_by_size,
)

FIGURES: tuple[ModuleType, ...] = (
    audit_forest,
    reward_tax_front,
    win_rate_by_size,
    likert,
    metadata_flags,
    truthfulness,
    toxicity,
    toxicity_by_prompt,
    bias_entropy,
    tax_panels,
    penalty_sweeps,
    tax_over_training,
    persona_clouds,
    persona_histograms,
    review_sentiment,
    embeddings_map,
    cosine_heat_map,
    token_entropy_histogram,
    token_entropy_curve,
    training_curves,
    labeler_agreement,
)
