"""Lineages of checkpoints that others trained: model cards, adapters, trainer states, and --lineage FILE."""

import json

import pytest
from audit_runs import write_run
from cases import cases
from commands import assert_one_line_error, run

from alignbench.audit.compare import compare
from alignbench.models.lineage import recorded_lineage

ACC = {"acc": [1.0, 0.0] * 60}


def write_folder(folder, card=None, **files):
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_text(f"---\n{card}\n---\n# A model\n")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("case", cases("lineage")["recorded"], ids=lambda case: case["name"])
def test_what_other_trainers_leave_in_a_folder(tmp_path, case):
    for name, files in case.get("others", {}).items():
        write_folder(tmp_path / name, **files)
    found = recorded_lineage(write_folder(tmp_path / case["name"], **case["files"]), case["name"], "sha")
    assert [[own.stage, own.name] for own in found] == case["lineage"]
    assert not found or found[-1].weights_sha256 == "sha"


def test_a_checkpoint_has_the_lineage_of_its_card_and_the_audit_finds_the_base_by_name(tmp_path):
    from tiny import save_tiny_checkpoint

    from alignbench.models.checkpoint import find_checkpoint

    folder = save_tiny_checkpoint(tmp_path / "tuned")
    (folder / "README.md").write_text("---\nbase_model: lab/base\ntags: [trl, dpo]\n---\n")
    checkpoint = find_checkpoint(str(folder))
    assert [(own.stage, own.name) for own in checkpoint.lineage] == [("base", "lab/base"), ("dpo", "tuned")]
    runs = [write_run(tmp_path / "runs", name, ("rte", ACC)) for name in ("other", "base", "tuned")]
    description = json.loads((runs[2] / "run.json").read_text())
    lineage = [vars(own) for own in checkpoint.lineage]
    (runs[2] / "run.json").write_text(json.dumps({**description, "lineage": lineage}))
    contrasts = compare(["tuned", "base"], runs=tmp_path / "runs").contrasts
    assert [(own.reference, own.aligned, own.role) for own in contrasts] == [("base", "tuned", "pretrained")]


FILE = """
zephyr-sft: {base: mistral, role: sft}
zephyr-dpo: {base: zephyr-sft, role: dpo}
zephyr-rl: zephyr-dpo
"""


def test_a_file_says_which_model_was_trained_from_which(tmp_path):
    for name in ("zephyr-rl", "zephyr-dpo", "mistral", "zephyr-sft"):
        write_run(tmp_path / "runs", name, ("rte", ACC))
    (tmp_path / "lineage.yaml").write_text(FILE)
    models = ("zephyr-rl", "zephyr-dpo", "mistral", "zephyr-sft")
    audit = compare(models, runs=tmp_path / "runs", lineage=tmp_path / "lineage.yaml")
    assert {(own.reference, own.aligned, own.role) for own in audit.contrasts} == {
        ("mistral", "zephyr-sft", "pretrained"),
        *((reference, aligned, role) for aligned in ("zephyr-dpo", "zephyr-rl")
          for reference, role in (("mistral", "pretrained"), ("zephyr-sft", "SFT"))),
    }  # fmt: skip
    # without base and SFT model the nearest ancestor is the reference
    audit = compare(("zephyr-rl", "zephyr-dpo"), runs=tmp_path / "runs", lineage=tmp_path / "lineage.yaml")
    assert [(own.reference, own.role) for own in audit.contrasts] == [("zephyr-dpo", "DPO")]
    done = run("report", "runs", "--lineage", "lineage.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", cases("lineage")["rejected"], ids=lambda case: case["words"][0])
def test_wrong_files_are_one_clear_line(tmp_path, case):
    for name in ("a", "b"):
        write_run(tmp_path / "runs", name, ("rte", ACC))
    if "text" in case:
        (tmp_path / "file.yaml").write_text(case["text"])
    assert_one_line_error(run("compare", "a", "b", "--lineage", "file.yaml", cwd=tmp_path), *case["words"])
