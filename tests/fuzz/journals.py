"""Damage to run folders: the journal by bytes and SQL, description and lock, links; and the commands that read them."""

import json
import os
import random
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from .box import Box, Case, written
from .damage import ANSI, MARKUP, NASTY, byte_damage, json_damage

_SAID = re.compile(r"damag|seal|left out|checksum|no longer fits|not whole", re.IGNORECASE)

_HOW = (
    *("payload", "payload", "number", "row", "drop", "extra", "status", "swap", "unit", "info", "info", "blob"),
    *("forget", "times", "view", "trigger", "environment", "layout"),
)
_BESIDE = (
    *("lock link", "lock pipe", "lock folder", "report link", "run.json link", "run.json pipe", "database link"),
    *("journal", "wal", "gone", "folder", "zero", "sparse"),
)


def case(draw: random.Random, box: Box) -> Case:
    verb = draw.choice(
        ("report", "verify", "answer", "status", "compare", "baseline", "recover", "merge", "contribute")
    )
    if verb == "report" and draw.random() < 0.5:  # the slowest
        verb = "verify"
    more = {
        "report": "--out out/report",
        "answer": "--json out/a.json",
        "contribute": "--out out/pack.zip",
        "compare": "in/run2 --csv out/c.csv",
        "baseline": "--hardware none --out out/b.json",
        "recover": "--out out/rec",
        "merge": "--out out/rec",
    }.get(verb, "")
    arguments = box.command(f"{verb} in/run {more}")
    said, expect, damage, writes = draw.choice((_bytes, _sql, _sql, _sql, _description, _beside))(draw, box)
    check = None
    if verb == "recover":
        expect, check = "free", _saved
    elif verb in ("status", "contribute"):  # which says the hash of the journal as it is
        expect = "free"
    elif expect == "equal":
        expect, check = "said", _equal_or_said
    return Case(
        "runs", said, arguments, expect, {"run": "run", "run2": "run2"}, ("out", *writes), damage=damage,
        check=check, judged=verb == "merge", stdout_counts=True, several_lines=verb == "status",
    )  # fmt: skip


def _equal_or_said(before: Any, now: Any) -> str:
    """Equal numbers, or fewer and words about the damage."""
    from .judge import unequal

    if _SAID.search(json.dumps(now, default=str)):
        return ""
    return unequal(before, now)


def _saved(before: Any, now: Any) -> str:
    """What is recovered is what was stored, and nothing else."""
    old, new = before.get("rec/run.sqlite", {}), now.get("rec/run.sqlite", {})
    wrong = next((name for name, held in new.items() if old.get(name) != held), None)
    return f"{wrong} was saved as {str(new[wrong])[:100]}, was {str(old.get(wrong))[:100]}" if wrong else ""


def _bytes(draw: random.Random, box: Box) -> tuple[str, str, Callable[[Box], None], tuple[str, ...]]:
    made, said, how = byte_damage(draw, (box.material / "run/run.sqlite").read_bytes())
    return f"run.sqlite: {said}", "equal", written("run/run.sqlite", made), ("in/run/run.sqlite-",)


def _description(draw: random.Random, box: Box) -> tuple[str, str, Callable[[Box], None], tuple[str, ...]]:
    content = (box.material / "run/run.json").read_bytes()
    made, said = json_damage(draw, content)[:2] if draw.random() < 0.6 else byte_damage(draw, content)[:2]
    return f"run.json: {said}", "equal", written("run/run.json", made), ()


def _sql(draw: random.Random, box: Box) -> tuple[str, str, Callable[[Box], None], tuple[str, ...]]:
    """What a hand or another program could do to the journal."""
    unit = draw.choice(("unedited", "rome-entity", "rome-relation", "trace-hidden-entity"))
    one, other = draw.sample(range(100, 114), 2)
    how = draw.choice(_HOW)
    seed = draw.random()
    nasty = draw.choice((*NASTY[:40], ANSI, MARKUP))

    def damage(at: Box) -> None:
        again = random.Random(seed)
        with closing(sqlite3.connect(at["run/run.sqlite"])) as db, db:
            db.row_factory, where = sqlite3.Row, "unit = ? and case_id = ?"
            payload = db.execute(f"select payload from records where {where}", (unit, one)).fetchone()[0]
            if how == "payload":
                made = json_damage(again, payload.encode())[0].decode("utf-8", "replace")
                db.execute(f"update records set payload = ? where {where}", (made, unit, one))
            elif how == "number":
                made = re.sub(r"(\d)\.(\d)", lambda found: f"{found[1]}.{(int(found[2]) + 3) % 10}", payload, count=3)
                db.execute(f"update records set payload = ? where {where}", (made, unit, one))
            elif how == "row":
                row = db.execute(f"select row from numbers where {where}", (unit, one)).fetchone()
                made = bytearray(row[0] if row else b"12345678")
                made[again.randrange(len(made))] ^= 64
                db.execute(f"update numbers set row = ? where {where}", (bytes(made), unit, one))
            elif how == "drop":
                db.execute(f"delete from {again.choice(('records', 'numbers'))} where {where}", (unit, one))
            elif how == "extra":
                row = dict(db.execute(f"select * from records where {where}", (unit, one)).fetchone())
                row["case_id"] = again.choice((-1, 99, 2**60))
                db.execute(f"insert into records values ({', '.join('?' * len(row))})", tuple(row.values()))
            elif how == "status":
                status = again.choice(("failed", "excluded", "done", "", ANSI))
                db.execute(f"update records set status = ? where {where}", (status, unit, one))
            elif how == "swap":
                there = db.execute(f"select payload from records where {where}", (unit, other)).fetchone()[0]
                db.execute(f"update records set payload = ? where {where}", (there, unit, one))
            elif how == "unit":
                db.execute(f"update or replace records set unit = 'unedited' where {where}", (unit, one))
            elif how in ("info", "environment"):
                key = "info" if how == "info" else "environments"
                text = db.execute("select value from meta where key = ?", (key,)).fetchone()[0]
                made = json_damage(again, text.encode())[0].decode("utf-8", "replace")
                db.execute("update meta set value = ? where key = ?", (made, key))
            elif how == "blob":
                value = again.choice((b"\xff\xfe", 7, 1.5, "", "[" * 5000, "null", '{"reason": 7}', payload.encode()))
                db.execute(f"update records set payload = ? where {where}", (value, unit, one))
            elif how == "forget":
                db.execute("delete from meta where key = ?", (again.choice(("info", "numbers", "environments")),))
            elif how == "times":
                values = (unit, again.choice((-1.0, 1e308, "x")), 2**62, again.choice((-1e300, 1e300, "y", None)))
                db.execute("insert into times (unit, seconds, cases, ended) values (?, ?, ?, ?)", values)
            elif how == "view":
                db.execute("alter table records rename to hidden")
                db.execute(
                    "create view records as select unit, case_id, 'failed' as status, '{}' as payload from hidden"
                )
            elif how == "trigger":
                db.execute("create trigger t after insert on records begin delete from records; end")
            else:
                value = str(nasty)[:50].encode("utf-8", "replace").decode()
                db.execute("update meta set value = ? where key = 'numbers'", (value,))
        db.close()

    free = ("times", "environment", "trigger", "layout")
    return (
        f"run.sqlite, {how} of {unit} {one} ({seed:.4f})",
        "free" if how in free else "equal",
        damage,
        ("in/run/run.sqlite-",),
    )


def _beside(draw: random.Random, box: Box) -> tuple[str, str, Callable[[Box], None], tuple[str, ...]]:
    """Links, pipes and folders in the place of files; files that a killed process would leave."""
    how = draw.choice(_BESIDE)
    junk = draw.randbytes(draw.choice((1, 28, 512, 5000)))

    def damage(at: Box) -> None:
        run = at["run"]
        journal, lock = run / "run.sqlite", run / "run.lock"
        if how.startswith("lock"):
            lock.unlink(missing_ok=True)
            {
                "link": lambda: lock.symlink_to(at.elsewhere / "precious"),
                "pipe": lambda: os.mkfifo(lock),
                "folder": lock.mkdir,
            }[how[5:]]()
        elif how == "report link":
            import shutil

            shutil.rmtree(run / "report", ignore_errors=True)
            (run / "report").symlink_to(at.elsewhere)
        elif how in ("journal", "wal"):
            (run / f"run.sqlite-{how}").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * (len(junk) % 2) + junk)
        elif how.startswith("run.json"):
            (run / "run.json").unlink()
            if how.endswith("pipe"):
                os.mkfifo(run / "run.json")
            else:
                (run / "run.json").symlink_to(at.elsewhere / "precious")
        elif how == "gone":
            journal.unlink()
        elif how == "folder":
            journal.unlink()
            journal.mkdir()
        elif how == "zero":
            journal.write_bytes(b"")
        elif how == "sparse":
            with journal.open("r+b") as file:
                file.truncate(1 << 32)
        else:
            journal.rename(at.elsewhere / "db")
            journal.symlink_to(at.elsewhere / "db")

    own = ("in/run/run.sqlite",)
    writes = {"journal": own, "wal": own, "database link": ("in/run/run.sqlite-", "elsewhere/db-")}.get(how, ())
    return f"run folder, {how}", "equal", damage, writes
