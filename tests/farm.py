"""The tests' world: a farm in the files and columns of the real data (tests/farm_data), which all tasks read, and a
small model of its text (text.jsonl), in place of a pretrained one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

DATA = Path(__file__).parent / "farm_data"


def write_world(folder: Path) -> list[str]:
    """Copy the data files below `folder` (layout of --data-dir) and return the text that a model learns from."""
    shutil.copytree(DATA, folder, ignore=shutil.ignore_patterns("text.jsonl"), dirs_exist_ok=True)
    rows = map(json.loads, (DATA / "text.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["text"] for row in rows for _ in range(row["times"])]


def train_model(folder: Path, text: Sequence[str], seed: int = 0, steps: int = 300) -> Path:
    """Train a Llama of about 150,000 parameters on the text, and save it in the Hugging Face format."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from alignbench.demo.pretrain import train_tokenizer

    tokenizer = train_tokenizer(text, 512)
    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, bos_token_id=0, eos_token_id=0, **shape
    )
    model = LlamaForCausalLM(config)
    stream = torch.tensor([token for line in text for token in [0, *tokenizer.encode(line)]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(stream) - 65, (32,))
        batch = stream[starts[:, None] + torch.arange(64)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
