"""A run split over several processes writes the files of one process."""

from commands import files_of, run, run_process


def test_two_processes_write_the_files_and_the_output_of_one(tmp_path, world, farm_model):
    command = ["evaluate", farm_model, "--tasks", "real_toxicity,truthfulqa_mc,squad2", "--data-dir", world]
    command += ["--scorer", "toxicity=alt-profanity-check", "--device", "cpu", "--out"]
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    two = run_process(*command, tmp_path / "two", module=launch, env={"TOKENIZERS_PARALLELISM": "false"})
    assert two.returncode == 0, two.stderr[-3000:]
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
    assert two.stdout.replace("/two/", "/one/") == one.stdout  # only the first process prints
