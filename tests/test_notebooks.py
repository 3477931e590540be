"""The notebooks of the documentation run from top to bottom, and what their text says of the results holds."""

from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.md"))
CHECKS = {  # code at the end of a notebook
    "audit": """
assert set(rows.index.get_level_values("task")) >= {"truthfulqa_mc", "real_toxicity", "hellaswag", "diversity"}
assert contrast.reference == "base" and contrast.aligned == "sft"
assert rows.verdict["real_toxicity", "emt"] == "gain" and rows.verdict["diversity", "self_bleu"] == "loss"
assert changed.change.max() > 0
""",
    "diversity": """
of_set = pd.DataFrame({name: measure(texts) for name, texts in sets.items()}).T
assert of_set.self_bleu.is_monotonic_decreasing and of_set.distinct_2.is_monotonic_increasing
assert of_set.rouge_l_overlap.is_monotonic_decreasing and of_set.compression_ratio.is_monotonic_decreasing
values = overall[shown].map(lambda metric: metric.value)
assert values.self_bleu["base"] < values.self_bleu["sft"] and values.entropy["base"] > values.entropy["sft"]
assert {(contrast.reference, contrast.aligned) for contrast in audit.contrasts} >= {("base", "sft"), ("sft", "dpo")}
""",
    "ppo": """
assert pd.read_json(folder / "reward/final/recipe.json", typ="series")["metrics"]["accuracy"] > 0.5
assert steps.score.tail(3).mean() > steps.score.head(3).mean() and steps.kl.iloc[-1] > 0
assert results["kl", "kl"].value > 0 and results["win_rate", "win_rate"].n > 0
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_runs_and_its_results_are_as_it_says(page, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = jupytext.read(page)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS[page.stem]))
    NotebookClient(notebook, kernel_name="python3", startup_timeout=300).execute()  # raises at a cell that fails
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds, "tables and figures are shown"
    printed = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not [text for text in printed if "Warning" in text or "Traceback" in text]


def test_every_notebook_is_checked_and_in_the_navigation_without_outputs():
    assert {page.stem for page in NOTEBOOKS} == set(CHECKS)
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in NOTEBOOKS:
        assert str(page.relative_to(ROOT)) in navigation
        cells = jupytext.read(page).cells
        assert all(compile(cell.source, page.name, "exec") for cell in cells if cell.cell_type == "code")
        assert yaml.safe_load(page.read_text().split("---\n")[1])["jupyter"]["kernelspec"]["name"] == "python3"
