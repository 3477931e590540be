"""A run split over several processes writes the files of one process."""

import pytest
from commands import files_of, run, run_process
from processes import in_two_processes, run_command

LAUNCH = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
LAUNCH += "--dynamo_backend no --main_process_port 0"


@pytest.mark.parametrize("launcher", ["", pytest.param(LAUNCH, marks=pytest.mark.slow)], ids=["forks", "accelerate"])
def test_two_processes_write_the_files_and_the_output_of_one(tmp_path, world, farm_model, launcher):
    command = ["evaluate", farm_model, "--tasks", "real_toxicity,truthfulqa_mc,squad2", "--data-dir", world]
    command += ["--scorer", "toxicity=alt-profanity-check", "--device", "cpu", "--out"]
    if launcher:
        two = run_process(*command, tmp_path / "two", launch=launcher, env={"TOKENIZERS_PARALLELISM": "false"})
        assert two.returncode == 0, two.stderr[-3000:]
        said = two.stdout
    else:
        in_two_processes(tmp_path, run_command, *command, tmp_path / "two")
        said = "".join((tmp_path / f"out-{rank}").read_text() for rank in (0, 1))
    one = run(*command, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    found, expected = (
        # run.json contains the number of processes
        {name: content for name, content in files_of(tmp_path / out).items() if not name.endswith("/run.json")}
        for out in ("two", "one")
    )
    assert found == expected
    assert sum(name.endswith("result.json") for name in found) == 3
    assert not any("partial" in name for name in found)
    assert said.replace("/two/", "/one/") == one.stdout  # only the first process prints
