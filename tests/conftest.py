"""Fixtures: real data and real small models where they are, a made-up world and a tiny model everywhere."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import train_model, write_world
from hypothesis import settings

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"


settings.register_profile("alignbench", deadline=None, max_examples=50)  # processors differ in speed
settings.load_profile("alignbench")


def pytest_configure() -> None:
    # the machine's own settings and keys must not reach the tests, nor the tests a network
    for name in [
        name
        for name in os.environ
        if name.lower().endswith(("_api_key", "_proxy")) or name.startswith("ALIGNBENCH_API_")
    ]:
        del os.environ[name]
    for name in ("ALIGNBENCH_DATA", "ALIGNBENCH_CACHE"):
        if name in os.environ:
            os.environ[f"TESTS_{name}"] = os.environ.pop(name)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # token files of the trainers, also of their processes
    os.environ.setdefault("HF_DATASETS_CACHE", str(Path(tempfile.gettempdir()) / f"alignbench-tests-{os.getuid()}"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The authors' own data files."""
    folder = Path(os.environ.get("TESTS_ALIGNBENCH_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip("no folder with the authors' data files: set ALIGNBENCH_DATA")
    return folder


@pytest.fixture(scope="session")
def tinystories() -> Path:
    """A real pretrained model of 260,000 parameters."""
    folder = SHARED / "models" / "tinystories-260k"
    if not folder.is_dir():
        pytest.skip("no folder with real small models")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A farm's data files, in the layout of the real ones."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(scope="session")
def farm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the farm's text after a few steps: enough to prefer some answers to others."""
    folder = tmp_path_factory.mktemp("model")
    return train_model(folder / "farm", write_world(folder / "data"), steps=20)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models are too small to be shared between threads, which would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture
def llama(tokenizer: Any) -> Any:
    from tiny import tiny_model

    return tiny_model("llama", tokenizer)
