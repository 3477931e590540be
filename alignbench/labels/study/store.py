"""The study's file: SQLite in WAL mode, one transaction per submission, so that what was acknowledged is on the disk.

Submissions are never changed or deleted: to undo one is to mark it as withdrawn. Of a labeler's submissions about an
item at most one is current. What is sent again, after a lost connection, has the same id and is stored once.
"""

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.labels.study.answers import Submission
from alignbench.labels.study.assign import choose, fair_share, shown_order
from alignbench.labels.study.read import is_study, value
from alignbench.parse import encodable

EXPIRES = 3600.0  # seconds, after which an item that somebody opened and left is given to another labeler too
SCHEMA = """
create table study (name text primary key, value text not null) strict;
create table labelers (name text primary key, "group" text, secret text not null unique, active integer not null)
  strict;
create table items (id integer primary key, prompt_id text not null, prompt text not null, gold text) strict;
create table outputs (item integer, number integer, model text not null, text text not null,
  primary key (item, number)) strict;
create table claims (labeler text, item integer, opened real not null, primary key (labeler, item)) strict;
create table submissions (id text primary key, labeler text not null, item integer not null, received real not null,
  seconds real not null, answer text, reason text, note text not null, withdrawn real) strict;
create unique index of_labeler on submissions (labeler, item) where withdrawn is null;
create index of_item on submissions (item)
"""
CURRENT = "exists (select 1 from submissions s where s.item = {item} and s.labeler = {labeler} and s.withdrawn is null)"
MINE, CLAIMED = CURRENT.format(item="i.id", labeler=":labeler"), CURRENT.format(item="c.item", labeler="c.labeler")
# items of the study with the number of judgements that they have, and that others soon will make
NEEDED = f"""
  select i.id,
    (select count(*) from submissions s where s.item = i.id and s.withdrawn is null and s.answer is not null),
    (select count(*) from claims c where c.item = i.id and c.opened > :since and c.labeler <> :labeler
      and not {CLAIMED}), exists (select 1 from claims c where c.item = i.id and c.labeler = :labeler) as own
  from items i where i.gold is null order by i.id
"""
OPENED = f"select item from claims c where labeler = :labeler and not {CLAIMED} order by opened desc limit 1"
GOLD = f"""select i.id from items i where gold is not null and not {MINE} and not exists
  (select 1 from claims c where c.item = i.id and c.labeler = :labeler) order by i.id limit 1"""
GOLD_LEFT = f"select count(*) from items i where gold is not null and not {MINE}"
DONE = "select count(*) from submissions where labeler = :labeler and withdrawn is null"
LAST = """select s.id, i.gold is not null from submissions s join items i on i.id = s.item
  where s.labeler = :labeler and s.withdrawn is null order by s.rowid desc limit 1"""
FOUND = """select s.item, i.gold is not null and s.withdrawn is null from submissions s join items i on i.id = s.item
  where s.id = :id and s.labeler = :labeler"""
DRAFT = """select answer, note, seconds from submissions where labeler = :labeler and item = :item
  order by rowid desc limit 1"""


class ConflictError(Exception):
    """A submission that contradicts what is stored; the message is for the labeler."""


@dataclass(frozen=True)
class Item:
    """A prompt with the outputs of the systems. outputs: (model, text) of each
    gold: rank, Likert mark and flags of each output if it is a qualification item"""

    prompt_id: str
    prompt: str
    outputs: tuple[tuple[str, str], ...]
    gold: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True)
class Settings:
    """What cannot change while a study runs. overlap: labelers per prompt
    reference: name of the labeler of the qualification's reference answers"""

    overlap: int
    seed: int
    reference: str | None = None
    pass_mark: float | None = None


class Study:
    """An open study. All methods may be called from any thread."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self._database, self._lock = path, database, threading.Lock()
        identity = value(database, "identity")
        del identity["items"]
        self.settings = Settings(**identity)
        self._key = str(value(database, "key"))
        self.id = hashed(self._key)[:12]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _transaction(self._database) as database:
            yield database

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction, whose changes are then moved from the log to the file itself."""
        with self._lock:
            with _transaction(self._database) as database:
                yield database
            _checkpoint(self._database)

    def labeler_of(self, secret: str) -> str | None:
        """The active labeler whose link contains this secret, "" for the admin view, None for nobody."""
        with self._transaction() as database:
            found = database.execute(
                "select name from labelers where secret = ? and active union all "
                "select '' from study where name = 'admin' and value = json_quote(?)",
                (hashed(secret), hashed(secret)),
            ).fetchone()
        return None if found is None else str(found[0])

    def state(self, labeler: str, stopped: Collection[str] = ()) -> dict[str, Any]:
        """What the page shows: the labeler's progress and the next item, which is assigned to the labeler from now on.

        stopped: labelers who get no items after the qualification
        waiting: there is no item now, but one that somebody else has opened may be left
        """
        qualified = labeler not in stopped
        who = {"labeler": labeler, "since": time.time() - EXPIRES}
        with self._transaction() as database:
            needs = database.execute(NEEDED, who).fetchall()
            names = [name for (name,) in database.execute("select name from labelers where active")]
            active, overlap = sum(name not in stopped for name in names), self.settings.overlap
            free = [item for item, count, held, own in needs if count + held < overlap and not own]
            found = _one(database, OPENED, **who) or _one(database, GOLD, **who)
            item = found[0] if found else choose(free, labeler, active, self.settings.seed) if qualified else None
            if item is not None:
                database.execute("insert or ignore into claims values (?, ?, ?)", (labeler, item, time.time()))
            (done,), (gold,), last = (_one(database, query, **who) for query in (DONE, GOLD_LEFT, LAST))
            needed = sum(max(0, overlap - count - held) for _, count, held, _ in needs) if qualified else 0
            possible = min(fair_share(needed, active), len(free) + bool(found))
            left = 0 if item is None else gold + max(possible, int(not gold))
            return {
                "study": self.id, "labeler": labeler, "done": done, "target": done + left,
                "last": last[0] if last and not (last[1] and self._is_final(gold)) else None,
                "complete": all(count >= overlap for _, count, _, _ in needs),
                "waiting": item is None and qualified and any(c < overlap and not own for _, c, _, own in needs),
                "item": None if item is None else self._shown(database, labeler, item),
            }  # fmt: skip

    def _is_final(self, gold_left: int) -> bool:
        """Whether the answers of the qualification are final: who has learnt that they fail cannot change them."""
        return self.settings.pass_mark is not None and not gold_left

    def _shown(self, database: sqlite3.Connection, labeler: str, item: int) -> dict[str, Any]:
        """The item without names of models, with its outputs in the labeler's order, and a withdrawn answer to it."""
        (prompt,) = _one(database, "select prompt from items where id = :item", item=item)
        texts = database.execute("select text from outputs where item = ? order by number", (item,)).fetchall()
        order = shown_order(self._key, labeler, item, len(texts))
        found = {"id": item, "prompt": prompt, "outputs": [texts[number][0] for number in order]}
        if draft := _one(database, DRAFT, labeler=labeler, item=item):
            answer = json.loads(draft[0]) if draft[0] else None
            found["draft"] = {"answer": answer and [answer[n] for n in order], "note": draft[1], "seconds": draft[2]}
        return found

    def submit(self, labeler: str, own: Submission) -> None:
        """Store a submission; once, however often it is sent. Raises ConflictError if the item is not the labeler's, or
        has another answer by the same labeler, from another tab."""
        place = {"labeler": labeler, "item": own.item}
        with self._change() as database:
            known = _one(database, "select labeler, item from submissions where id = :id", id=own.submission)
            if known not in (None, (labeler, own.item)):
                raise ConflictError("this identifier belongs to another submission")
            if known is not None:
                return
            if not _one(database, "select 1 from claims where labeler = :labeler and item = :item", **place):
                raise ConflictError("this item is not assigned to you")
            (outputs,) = _one(database, "select count(*) from outputs where item = :item", **place)
            if (answer := own.stored()) is not None and len(answer) != outputs:
                raise ConflictError(f"this item has {outputs} outputs, but {len(answer)} were judged")
            order = shown_order(self._key, labeler, own.item, outputs)
            stored = answer and json.dumps([answer[order.index(number)] for number in range(outputs)])
            row = (own.submission, labeler, own.item, time.time(), own.seconds, stored, own.reason, encodable(own.note))
            try:
                database.execute("insert into submissions values (?, ?, ?, ?, ?, ?, ?, ?, null)", row)
            except sqlite3.IntegrityError:
                raise ConflictError("you have judged this item already, in another tab") from None

    def undo(self, labeler: str, submission: str) -> None:
        """Withdraw a submission; its item is the labeler's next one. Nothing happens if it is withdrawn already.
        Raises ConflictError if the labeler has no such submission, and for one of a finished qualification."""
        own = {"id": submission, "labeler": labeler, "now": time.time()}
        with self._change() as database:
            item = _one(database, FOUND, **own)
            if item is None:
                raise ConflictError("there is no such submission of yours")
            if item[1] and self._is_final(_one(database, GOLD_LEFT, **own)[0]):
                raise ConflictError("the qualification is finished, so its answers are final")
            withdraw = "update submissions set withdrawn = :now where id = :id and withdrawn is null"
            if database.execute(withdraw, own).rowcount:
                opened = "update claims set opened = :now where labeler = :labeler and item = :item"
                database.execute(opened, own | {"item": item[0]})

    def table(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._transaction() as database:
            return database.execute(query, parameters).fetchall()

    def close(self) -> None:
        with self._lock:
            self._database.close()


def open_study(
    path: Path,
    items: Sequence[Item],
    settings: Settings,
    labelers: Mapping[str, str | None],
    *,
    new_links: bool = False,
) -> tuple[Study, dict[str, str]]:
    """Create a study, or continue the one in the file.

    labelers: name -> group. New ones are added; those who are missing are inactive, and keep their labels.
    new_links: replace all secrets
    Returns the secrets that were made, by labeler, "" for the admin view: only their hashes are stored.
    Raises AlignbenchError if the file has another study, or is none.
    """
    if path.exists() and path.stat().st_size and not is_study(str(path)):
        raise AlignbenchError(f"{path}: exists and is not a study; name another file with --out")
    about = [(own.prompt_id, own.prompt, own.outputs, own.gold) for own in items]
    digest = hashlib.sha256(json.dumps(encodable(json.loads(json.dumps(about)))).encode()).hexdigest()
    identity = {**vars(settings), "items": digest}
    if not path.parent.is_dir():
        raise AlignbenchError(f"{path}: there is no folder {path.parent}")
    try:
        database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        with _transaction(database):
            if not database.execute("select 1 from sqlite_master").fetchone():
                _create(database, items, identity)
            elif not database.execute("select 1 from sqlite_master where name = 'submissions'").fetchone():
                raise AlignbenchError(f"{path}: a database that is not a study; name another file with --out")
            before = value(database, "identity")
            if differing := [name for name in identity if before.get(name) != identity[name]]:
                words = {"items": "prompts, outputs or systems", "reference": "qualification", "pass_mark": "pass mark"}
                what = " and ".join(words.get(name, name) for name in differing)
                raise AlignbenchError(f"{path}: a study with different {what}; name another file with --out")
            key = json.dumps(secrets.token_hex(16))
            database.execute("insert or ignore into study values ('key', ?)", (key,))
            made = _set_labelers(database, labelers, new_links)
        _checkpoint(database)
        return Study(path, database), made
    except sqlite3.Error as error:
        raise AlignbenchError(f"{path}: cannot be opened as a study ({error})") from None


def hashed(secret: str) -> str:
    """sha256 of a secret; it has 256 random bits, so no slower hash is needed."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _create(database: sqlite3.Connection, items: Sequence[Item], identity: Mapping[str, Any]) -> None:
    for statement in SCHEMA.split(";"):
        database.execute(statement)
    database.execute("insert into study values ('identity', ?)", (json.dumps(identity),))
    for number, own in enumerate(items, 1):
        gold = None if own.gold is None else json.dumps(list(map(dict, own.gold)))
        database.execute(
            "insert into items values (?, ?, ?, ?)", (number, *map(encodable, (own.prompt_id, own.prompt)), gold)
        )
        rows = [(number, place, *map(encodable, output)) for place, output in enumerate(own.outputs)]
        database.executemany("insert into outputs values (?, ?, ?, ?)", rows)


def _set_labelers(database: sqlite3.Connection, labelers: Mapping[str, str | None], new_links: bool) -> dict[str, str]:
    known = dict(database.execute('select name, "group" from labelers'))
    made: dict[str, str] = {}
    for name, group in labelers.items():
        if name in known and known[name] != group:
            before, now = (f"group {own}" if own else "no group" for own in (known[name], group))
            raise AlignbenchError(f"labeler {name} was in {before}, and is now in {now}; groups cannot change")
        if name not in known or new_links:
            made[name] = secrets.token_urlsafe(32)
            database.execute(
                'insert into labelers values (?, ?, ?, 1) on conflict (name) do update set secret = excluded.secret',
                (name, group, hashed(made[name])),
            )  # fmt: skip
    database.execute(
        "update labelers set active = name in (select value from json_each(?))", (json.dumps([*labelers]),)
    )
    if value(database, "admin") is None or new_links:
        made[""] = secrets.token_urlsafe(32)
        database.execute("insert or replace into study values ('admin', ?)", (json.dumps(hashed(made[""])),))
    return made


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("begin immediate")
    try:
        yield database
    except BaseException:
        database.execute("rollback")
        raise
    database.execute("commit")


def _checkpoint(database: sqlite3.Connection) -> None:
    database.execute("pragma wal_checkpoint(passive)").fetchall()


def _one(database: sqlite3.Connection, query: str, **values: object) -> Any:
    return database.execute(query, values).fetchone()
