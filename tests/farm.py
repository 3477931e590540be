"""`make demo`: a small world, a small model taught in it, and the model's evaluation, with no network at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignbench.demo_world import write_world
from alignbench.progress import Progress, for_terminal


def train_model(
    folder: Path, text: Sequence[str], progress: Progress | None = None, seed: int = 0, steps: int = 300
) -> Path:
    """Teach a Llama of some 150,000 parameters the world's text, and save it in the Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=512, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<s>")
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    stream = torch.tensor([token for line in text for token in [0, *tokenizer.encode(line)]])
    progress = progress or Progress()
    progress.start("teaching a small model in it", steps, unit="steps")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(stream) - 65, (32,))
        batch = stream[starts[:, None] + torch.arange(64)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress.advance()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    """Make the world and the model below .demo, evaluate, and print what came out and where it lies."""
    from alignbench.evaluation import evaluate
    from alignbench.tables import print_results

    home = Path(".demo")
    with for_terminal() as progress:
        progress.say(f"writing a small world to {home / 'data'}")
        text = write_world(home / "data")
        checkpoint = train_model(home / "farm-model", text, progress)
        runs = evaluate(
            [str(checkpoint)],
            [
                "truthfulqa_mc",
                "hellaswag",
                "crows_pairs",
                "winogender",
                "truthfulqa_generation",
                "squad2",
                "hallucination_qa",
                "real_toxicity",
                "wmt15_fr_en",
            ],
            home / "runs",
            scorers=["toxicity=alt-profanity-check"],
            data_dir=home / "data",
            progress=progress,
        )
    print_results(runs)
    print("next: alignbench evaluate YOUR_CHECKPOINT --tasks truthfulqa_mc,hellaswag,crows_pairs,winogender")


if __name__ == "__main__":
    main()
