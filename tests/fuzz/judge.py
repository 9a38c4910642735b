"""One case run in this process and judged.

Of every case: exit code 0, 1, 2 or 3; with 2 and 3 one line that begins with "kloc: "; no traceback, no warning, no
control character; nothing written but where it was asked for; no code of an input run; strict JSON and finite numbers
alone; and the numbers of the undamaged input, unless the case says that the damage is a change one can make.
"""

import io
import json
import math
import os
import random
import re
import sqlite3
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from . import processes
from .box import Box, Case
from .damage import MARKUP

CPU_SECONDS = 30.0
"""More work than any case is worth: the slowest pristine command takes a tenth of it."""
_PROGRESS = re.compile(r"^(batches? |memory)")
_BAD = re.compile(r"Traceback|Warning\b|panicked|^  File |\bException\b")
_NO_NUMBER = re.compile(r"(?<![\w'\"/-])[-+]?(nan|inf)(?![\w'\"/-])", re.IGNORECASE)
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
# Of a model from the hub the weights are pinned; what is first seen of the rest is believed.
_SKIPPED = re.compile(r"timings\.json$|lock\.json$|/blobs/|/trees/|\.part|^hub/.*(?<!\.safetensors)$")
_IGNORED = {"model", "revision", "seconds", "timings", "tokenizer_sha256", "weights_sha256", "model_sha256", "notes"}
"""Results that are no numbers of the command's; `notes` say what is unknown of a file."""


class Ended:
    """How a command ended: exit code (None when it raised), what it said, its traceback, its CPU seconds."""

    def __init__(self, code: int | None, out: str, err: str, raised: str, seconds: float) -> None:
        self.code, self.out, self.err, self.raised, self.seconds = code, out, err, raised, seconds


def run(box: Box, case: Case) -> Ended:
    """`kloc` with the case's command line, in this process as a rule, with its own standard streams and folder."""
    from artifact.cli import call

    if case.process:
        return processes.run(box, case)
    begun, raised, code, before = time.process_time(), "", None, os.getcwd()
    with _streams(box, case.stdin) as said, _environment(case.env), warnings.catch_warnings():
        warnings.simplefilter("default")
        os.chdir(box.cwd)
        try:
            code = call(case.arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            raised = traceback.format_exc()
        finally:
            os.chdir(before)
    return Ended(code, *(one.decode("utf-8", "replace") for one in said), raised, time.process_time() - begun)


_BASELINES: dict[str, Any] = {}


def judge(box: Box, case: Case, draw: random.Random) -> tuple[list[str], Ended]:
    """What is wrong with the case, in words; nothing as a rule."""
    key = json.dumps([case.arguments, sorted(case.needs.items()), sorted(case.env.items())])
    if key not in _BASELINES and not case.process:
        box.empty()
        box.put(case.needs)
        with case.host(box, None) if case.host else nullcontext():
            pristine = run(box, case)
        if not case.judged and pristine.code not in (0, 1):
            raise AssertionError(f"the pristine command fails: {case.arguments}\n{pristine.err}{pristine.raised}")
        _BASELINES[key] = results(box, case, pristine)
    box.empty()
    box.put(case.needs)
    if case.damage:
        case.damage(box)
    before = box.listing(case.writes)
    with case.host(box, draw) if case.host else nullcontext():
        ended = run(box, case)
    found = list(_said(case, ended))
    for log in sorted(box.root.glob("box/*/kloc-defect-*.log")):
        found.append(f"a defect: {_last_lines(log.read_text('utf-8', 'replace'))}")
        log.unlink()
    after = box.listing(case.writes)
    changed = sorted({*before.items()} ^ {*after.items()})
    if box.canary.exists() or box.canary.is_symlink():
        found.append("code of an input was run")
    elif changed:
        found.append(f"written outside: {', '.join(dict.fromkeys(name for name, _ in changed))}"[:300])
    try:
        made = results(box, case, ended)
        if ended.code == 0:
            if case.expect == "refused":
                found.append("ended with 0 and must be refused")
            elif (
                case.expect == "equal"
                and (difference := unequal(_BASELINES[key], made))
                or case.check
                and (difference := case.check(_BASELINES[key], made))
            ):
                found.append(f"other numbers and exit 0: {difference}")
    except _Wrong as wrong:
        found.append(str(wrong))
    return found, ended


def _said(case: Case, ended: Ended) -> Iterator[str]:
    if ended.raised:
        yield f"traceback: {_last_lines(ended.raised)}"
        return
    if ended.code not in (0, 1, 2, 3):
        yield f"exit code {ended.code}: {ended.err[-300:].strip()}"
        return
    lines = [line for line in ended.err.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("kloc: ")]
    for line in lines:
        if line not in told and (_BAD.search(line) or (ended.code in (2, 3) and not _PROGRESS.search(line))):
            yield f"on standard error: {line[:160]}"
            break
    if ended.code in (2, 3) and len(told) != 1 and not (case.several_lines and told):
        yield f"exit code {ended.code} with {len(told)} lines"
    if any(re.search(r"Traceback|Error\(|^kloc: *$", line) for line in told):
        yield f"no words for a user: {told[0][:160]}"
    for stream, text in (("output", ended.out), ("error", ended.err)):
        bad = next((c for c in text if c not in "\n\t" and _commands(c)), None)
        if bad:
            at = text.index(bad)
            yield f"control character {bad!r} on standard {stream}: {text[max(0, at - 40) : at + 20]!r}"
    none = _NO_NUMBER.search(ended.out)
    # A text of an input, such as the name of a corpus, may be "nan"; on a command line it stands for a number.
    text = none and case.kind != "arguments" and repr(none[0]) in case.words
    if ended.code == 0 and none and not text:
        yield f"no number is printed: {ended.out[max(0, none.start() - 60) : none.end() + 20]!r}"
    if ended.seconds > CPU_SECONDS:
        yield f"took {ended.seconds:.0f} s of work"


def _commands(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") or ord(c) in _BIDI


def _last_lines(text: str) -> str:
    lines = text.strip().splitlines()
    where = [line.strip() for line in lines if "/artifact/" in line][-1:]
    shown = re.sub(r'File ".*/artifact/', "artifact/", where[0]) if where else ""
    return f"{lines[-1][:200]} ({shown})"


class _Wrong(Exception):
    """A file that was written holds what it must not."""


def results(box: Box, case: Case, ended: Ended) -> dict[str, Any]:
    """All that a command gave: the content of the files in `out`, and its output where that counts."""
    import numpy as np

    found: dict[str, Any] = {"said": ended.out} if case.stdout_counts else {}
    places = [getattr(box, place) for place in ("out", "cache", "hub") if place in case.writes]
    places = places if case.fetches else [box.out]
    for path in sorted(path for place in places for path in place.rglob("*")):
        name = str(path.relative_to(box.root / "box")).removeprefix("out/")
        if not path.is_file() or path.is_symlink() and "/snapshots/" not in name or _SKIPPED.search(name):
            continue
        if path.suffix == ".sqlite":
            found[name] = _records(path)
        elif path.suffix == ".json":
            found[name] = _strict(path)
        elif path.suffix == ".safetensors":
            found[name] = _arrays(name, _safetensors(path))
        elif path.suffix == ".npz":
            with np.load(path) as held:
                found[name] = _arrays(name, {key: held[key] for key in held})
        elif path.suffix in (".csv", ".md", ".tex", ".html"):
            text = path.read_text("utf-8")
            found[name] = text if path.suffix == ".csv" else None
            if path.suffix == ".md":
                text = re.sub(r"`[^`\n]*`", "", text)  # Markdown shows code as it stands
            if MARKUP[:20] in text or (path.suffix == ".md" and "](javascript:" in text) or "\x1b" in text:
                raise _Wrong(f"{name} holds text of an input that was not escaped")
    return found


def _records(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db, db:
        rows = db.execute("select unit, case_id, status, payload from records").fetchall()
    db.close()
    return {f"{unit} {case_id}": [status, json.loads(payload)] for unit, case_id, status, payload in rows}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _Wrong(
            f"{path.name} was written ({path.stat().st_size} bytes) and is no safetensors file: {error}"
        ) from None


def _arrays(name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    for key, array in arrays.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise _Wrong(f"{name}: {key} was written and is not finite")
    return {key: array for key, array in arrays.items() if array.dtype.kind in "fciub"}


def _strict(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise _Wrong(f"{path.name} was written and holds {word}, which is no JSON")

    try:
        return json.loads(path.read_text("utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise _Wrong(f"{path.name} was written and is no JSON: {error}") from None


def unequal(before: Any, now: Any, where: str = "") -> str:
    """The first difference of two results, in words; empty when they are equal to 1e-6."""
    import numpy as np

    if isinstance(before, np.ndarray) and isinstance(now, np.ndarray):
        if before.shape != now.shape:
            return f"{where}: shape {before.shape}, now {now.shape}"
        size = float(np.abs(before).max(initial=0.0)) or 1.0
        worst = float(np.abs(before.astype(np.float64) - now).max(initial=0.0))
        return f"{where}: differs by {worst:.3g} of {size:.3g}" if worst > 1e-6 * size else ""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            if key in _IGNORED:
                continue
            if key not in before or key not in now:
                return f"{where}/{key}: {'gone' if key in before else 'new'}"
            if difference := unequal(before[key], now[key], f"{where}/{key}"):
                return difference
        return ""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{where}: {len(before)} entries, now {len(now)}"
        return next(
            (d for n, (a, b) in enumerate(zip(before, now, strict=True)) if (d := unequal(a, b, f"{where}/{n}"))), ""
        )
    if isinstance(before, float | int) and isinstance(now, float | int):
        return "" if math.isclose(before, now, rel_tol=1e-6, abs_tol=1e-6) else f"{where}: {before}, now {now}"
    return "" if before == now else f"{where}: {str(before)[:80]!r}, now {str(now)[:80]!r}"


@contextmanager
def _streams(box: Box, stdin: bytes) -> Iterator[list[bytes]]:
    """Files in place of descriptors 0, 1 and 2, where libraries write, too; after the block what was written."""
    said: list[bytes] = []
    (box.logs / "0").write_bytes(stdin)
    kept = [os.dup(number) for number in range(3)]
    files = [
        os.open(box.logs / str(n), os.O_RDONLY if n == 0 else os.O_RDWR | os.O_CREAT | os.O_TRUNC) for n in range(3)
    ]
    before = sys.stdin, sys.stdout, sys.stderr
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", line_buffering=True)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True
        )
        yield said
    finally:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before
        for number, old in enumerate(kept):
            os.dup2(old, number)
        for file in (*kept, *files):
            os.close(file)
        said += [(box.logs / str(n)).read_bytes() for n in (1, 2)]


@contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
