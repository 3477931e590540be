"""`alignbench data`: which data sets there are, whether the local copies are right, and fetching the rest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.console import print_table
from alignbench.data.cards import Card, FileSource, HubSource, card_names, read_card
from alignbench.data.fetch import UnreachableError, load_hub, sha256_of
from alignbench.data.load import LocalFile, data_folder, fetch_file, local_files, missing_message
from alignbench.data.rows import read_rows
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.data.prepare import Prepared

app = typer.Typer(help="Data sets: list them, check local copies, fetch the rest.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="Folder of data files; default: $ALIGNBENCH_DATA.")]
Cards = Annotated[list[str] | None, typer.Argument(metavar="CARD", help="Default: all cards.")]


@app.command("list")
def list_cards(data_dir: DataDir = None) -> None:
    """Show each split, its rows and licence, and where it would be read from."""
    folder = data_folder(data_dir)
    rows = []
    for card in map(read_card, card_names()):
        for split, sources in card.splits.items():
            files = local_files(card, split, folder)
            if files:
                rows.append([card.name, split, str(files[0].source.rows), card.licence, files[0].place])
                continue
            remote = [source for source in sources if _is_remote(source)]
            source, place = (remote[0], "remote") if remote else (sources[0], "missing")
            rows.append([card.name, split, str(source.rows), card.licence, place])
    print_table(["card", "split", "rows", "licence", "found"], rows)


@app.command()
def check(cards: Cards = None, data_dir: DataDir = None) -> None:
    """Read every local file whole and compare rows and sha256 with the card; exit code 2 if any differs."""
    folder = data_folder(data_dir)
    rows, problems, checked = [], 0, 0
    for card in map(read_card, cards or card_names()):
        for split in card.splits:
            files = local_files(card, split, folder)
            if not files:
                rows.append([card.name, split, "-", "not on this machine"])
            for file in files:
                problem = _problem(file)
                checked += 1
                problems += problem is not None
                unpinned = "" if file.source.sha256 else " (the card pins no sha256)"
                result = problem or f"ok: {file.source.rows} rows{unpinned}"
                rows.append([card.name, split, file.source.file, result])
    if not checked:
        raise AlignbenchError("nothing to check on this machine: set ALIGNBENCH_DATA or pass --data-dir DIR")
    print_table(["card", "split", "file", "result"], rows)
    if problems:
        raise typer.Exit(2)


@app.command()
def fetch(cards: Cards = None, data_dir: DataDir = None) -> None:
    """Download what is not on this machine: files into alignbench's cache, hub splits into the hub's."""
    folder = data_folder(data_dir)
    rows = []
    for card in map(read_card, cards or card_names()):
        for split in card.splits:
            files = local_files(card, split, folder)
            if files:
                rows.append([card.name, split, f"{files[0].place}: {files[0].source.file}"])
            else:
                rows.append([card.name, split, _fetch_split(card, split, folder)])
    print_table(["card", "split", "result"], rows)


@app.command("prepare")
def prepare_prompts(
    source: Annotated[
        str,
        typer.Argument(help="JSON lines, JSON or CSV, also as .gz, or a hub data set owner/name[:split][@revision]."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for train, validation and test .jsonl and prepared.json.")],
    prompt_field: Annotated[str, typer.Option(help="Field of the prompt.")] = "prompt",
    user_field: Annotated[str, typer.Option(help="Field of the user's id.")] = "user",
    no_users: Annotated[
        bool, typer.Option("--no-users", help="No user ids: each prompt counts as its own user's.")
    ] = False,
    tokenizer: Annotated[str | None, typer.Option(help="Checkpoint whose tokens prompts are measured in.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Remove longer prompts (the paper: 1000).")] = None,
    max_prompt_characters: Annotated[int | None, typer.Option(help="Remove longer prompts.")] = None,
    prefix_characters: Annotated[
        int, typer.Option(help="Prompts that share so long a prefix are duplicates; ours, the paper gives no number.")
    ] = 200,
    per_user: Annotated[int, typer.Option(help="Prompts of one user, the first ones.")] = 200,
    validation: Annotated[float, typer.Option(help="Share of the users.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the users.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the hash that splits the users.")] = 0,
    no_pii: Annotated[bool, typer.Option("--no-pii", help="Leave personal data in the training split.")] = False,
) -> None:
    """Make prompts ready for training, as InstructGPT did: duplicates, limits, splits by user, personal data."""
    from alignbench.data.prepare import Settings, prepare

    settings = Settings(
        prompt_field=prompt_field,
        user_field=None if no_users else user_field,
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        max_prompt_characters=max_prompt_characters,
        prefix_characters=prefix_characters,
        per_user=per_user,
        validation=validation,
        test=test,
        seed=seed,
        pii=not no_pii,
    )
    _print_prepared(prepare(source, out, settings), out)


def _print_prepared(done: "Prepared", out: Path) -> None:
    """The paper's Tables 6 to 9 in one, then what was removed."""
    lengths = ("mean", "std", "min", "25%", "50%", "75%", "max")
    header = ["split", "prompts", "users", "per user: mean", "max", f"{done.length_unit}: mean", *lengths[1:]]
    rows = []
    for name, split in done.splits.items():
        cells = [split.users, split.per_user_mean, split.per_user_max, *map(split.length.get, lengths)]
        rows.append(
            [name, str(split.prompts), *("–" if cell is None else f"{cell:.1f}".removesuffix(".0") for cell in cells)]
        )
    print_table(header, rows)
    removed = [
        ["read", str(done.source["rows"])],
        *([f"removed: {reason}", str(n)] for reason, n in done.removed.items()),
    ]
    removed += [[f"personal data: {kind}", str(len(found))] for kind, found in done.pii.items()]
    print_table(["prompts", ""], removed)
    print(
        "personal data: found by pattern (addresses and numbers), in the training split; names are not found"
        if done.settings.pii
        else "personal data: not looked for (--no-pii)"
    )
    print(f"written: {out}")


def _is_remote(source: FileSource | HubSource) -> bool:
    return isinstance(source, HubSource) or source.url is not None


def _problem(file: LocalFile) -> str | None:
    """What is wrong with a local file, or None."""
    source = file.source
    try:
        count = sum(1 for _ in read_rows(file.path, source.format, source.at))
        sha256 = sha256_of(file.path)
    except AlignbenchError as error:
        return str(error)
    if count != source.rows:
        return f"{file.path}: {count} rows, the card says {source.rows}"
    if source.sha256 is not None and sha256 != source.sha256:
        return f"{file.path}: sha256 is {sha256}, the card says {source.sha256}"
    return None


def _fetch_split(card: Card, split: str, folder: Path | None) -> str:
    """Fetch the first remote source that answers; returns the line to show."""
    remote = [source for source in card.splits[split] if _is_remote(source)]
    if not remote:
        return missing_message(card, split, folder, [])
    reasons = []
    for source in remote:
        try:
            if isinstance(source, HubSource):
                load_hub(source)
                return f"fetched: hub {source.hub}"
            fetch_file(card, source)
            return f"fetched: {source.file}"
        except UnreachableError as error:
            reasons.append(str(error))
    raise AlignbenchError(missing_message(card, split, folder, reasons))
