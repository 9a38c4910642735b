"""Command lines: every option with words and numbers that nobody should give, outputs that are links, environments."""

import os
import random
from pathlib import Path
from typing import Any

from .box import Box, Case
from .damage import ANSI
from .odd import BYTES, DEVICES, LAYERS, LOW, NUMBERS, TEXTS

TRAIN = "mend-train --model in/model --facts in/training.json --steps 1 --rank 2"
MOMENTS = "moments --model in/model --texts in/texts.txt --layers 1 --samples 20"
SMALL = "run smoke --model in/model --only table2 --methods ft --out out/run"
LARGE = "run smoke --model in/model --limit 1 --out out/run"
APPLY = "apply --model in/model --edit in/edit.safetensors --out out/m"
GENERATE = "generate --model in/model --prompt Microsoft --tokens 3"
ESTIMATE = "doctor --estimate full"
RATE, BANDWIDTH, GPU = "--rate 5TFLOPS", "--bandwidth 5GB/s", "--gpu-memory 80GB"
CONVERT = "facts convert in/easyedit.json"
SEQUENCE = "sequence --model in/model --method ft --cases in/facts.json --hparams in/ft.json"
TUNE = "tune --model in/model --method ft --facts in/training.json --cases 1 --out out/tuned.json"
FEW = ("0", "-1", "nan", "1" * 400)
MANY = (*FEW, "9223372036854775808")
FILES = ("/dev/null", "/dev/full", "/proc/x", "x" * 5000)
FILLED = tuple(text for text in TEXTS if text.strip())

# A command line (`trace`, `score` and `edit` stand for those of kinds.py), its options, and values for one of these.
# Without options the value stands last.
OPTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("trace", "--model --prompt --template --facts --kind --correct --protocol", TEXTS),
    ("trace", "--subject", (*TEXTS, "M", "was", "by", "Microsoft ", "microsoft")),
    ("trace", "--samples", LOW),
    ("trace", "--window", NUMBERS),
    ("trace", "--noise", (*NUMBERS, "s", "s3", "s0", "s-1")),
    ("trace", "--memory", BYTES),
    ("trace", "--device", DEVICES),
    ("trace", "--corrupt", ("relation", *TEXTS)),
    ("trace", "--relation-span", ("after", "template", *TEXTS)),
    ("trace", "--sever", ("mlp", "attn", *TEXTS)),
    ("score", "--cases --edit --model --dtype --protocol --correct", TEXTS),
    (APPLY, "--out", FILES),
    ("facts check", "", TEXTS),
    ("facts check in/facts.json", "--model", TEXTS),
    ("facts check in/facts.json --model in/model", "--device", DEVICES),
    (f"{CONVERT} --out out/f.json", "--from", TEXTS),
    (APPLY, "--edit --model --dtype", TEXTS),
    (GENERATE, "--prompt --edit --model --dtype", TEXTS),
    (GENERATE, "--device", DEVICES),
    (GENERATE, "--tokens", MANY),
    ("score", "--memory", BYTES),
    ("score", "--device", DEVICES),
    ("edit", "--request --moments --prefixes --hparams --method --mend-weights --model --protocol", TEXTS),
    ("edit", "--device", DEVICES),
    ("edit", "--perspective", ("relation", *TEXTS)),
    ("edit", "--memory", BYTES),
    (f"{MOMENTS} --out out/m", "--texts --model --site --dtype", TEXTS),
    (f"{MOMENTS} --out out/m", "--device", DEVICES),
    (f"{MOMENTS} --out out/m", "--layers", LAYERS),
    (f"{MOMENTS} --out out/m", "--samples --checkpoint-minutes", NUMBERS),
    (f"{MOMENTS} --out out/m", "--batch-tokens", LOW),
    (f"{TRAIN} --out out/n.safetensors", "--model --facts --hparams --dtype --half", TEXTS),
    (f"{TRAIN} --out out/n.safetensors", "--device", DEVICES),
    (f"{TRAIN} --out out/n.safetensors", "--rank --batch --limit", LOW),
    (f"{TRAIN} --out out/n.safetensors", "--steps", LOW[:-1]),
    (f"{TRAIN} --out out/n.safetensors", "--lr --validation --seed", NUMBERS),
    ("report in/run", "--out", FILES),
    ("verify", "", TEXTS),
    ("answer", "", TEXTS),
    ("facts describe", "", TEXTS),
    ("status", "", TEXTS),
    ("compare in/run", "", TEXTS),
    ("compare in/run in/run", "--metric", TEXTS),
    ("recover in/run", "--out", ("", *FILES)),
    ("baseline in/run --out out/b.json", "--hardware", TEXTS),
    ("merge in/run", "--out", ("/dev/null", "/proc/x/y", "x" * 300)),
    ("fetch", "", (*TEXTS[:-4], "--check")),
    ("run", "", TEXTS),
    ("doctor", "--estimate --rehearse", TEXTS),
    ("doctor", "--device", DEVICES),
    (ESTIMATE, "--rate", (*BYTES, "nanTFLOPS", "0TFLOPS", "-1TFLOPS", "infTFLOPS")),
    (f"{ESTIMATE} {RATE} {BANDWIDTH} {GPU}", "--gpus", LOW),
    (f"{ESTIMATE} {RATE} {GPU}", "--bandwidth", (*BYTES, "nanGB/s", "0GB/s", "infGB/s")),
    (f"{ESTIMATE} {RATE} {BANDWIDTH}", "--gpu-memory", BYTES),
    (f"doctor --estimate smoke {RATE} {BANDWIDTH} {GPU}", "--limit", LOW),
    (SMALL, "--limit", FEW),
    (LARGE, "--methods --facts --shard --only --correct --memory", FILLED),
    ("trace", "--direction --metric --corruption --donor --dtype --screen", TEXTS),
    ("replaced", "--donor --relation-span --template", (*TEXTS, "Apple", "Microsoft", "Sony PlayStation")),
    ("knockout", "--from --to", ("last", "relation", "subject", *TEXTS)),
    ("knockout", "--subject --prompt --template --model --dtype --device", TEXTS),
    ("knockout", "--window", NUMBERS),
    ("knockout", "--memory", BYTES),
    ("edit", "--site --token --on --facts --history --dtype --correct", TEXTS),
    (f"{SEQUENCE} --sequence 1", "--cases --perspective --facts --hparams --method --protocol --correct", TEXTS),
    (f"{SEQUENCE} --sequence 1", "--model --moments --prefixes --mend-weights --dtype", TEXTS),
    (f"{SEQUENCE} --sequence 1", "--device", DEVICES),
    (SEQUENCE, "--sequence", (*LAYERS, "3,1", "2,2", "4", "1,2,3")),
    (f"{SEQUENCE} --sequence 1", "--memory", BYTES),
    (
        f"{TUNE} --grid in/grid.json",
        "--grid --facts --method --moments --mend-weights --protocol --correct --dtype --model",
        TEXTS,
    ),
    (f"{TUNE} --grid in/grid.json", "--device", DEVICES),
    (f"{TUNE} --grid in/grid.json", "--memory", BYTES),
    (f"{TUNE} --grid in/grid.json", "--cases", FEW),
    ("figures in/run --out out/f", "--format --only", TEXTS),
    (
        "figures in/run --only edits-entity --out out/f",
        "--width",
        (*NUMBERS, "3in", "0in", "-3in", "1e9in", "3 in", "9pt"),
    ),
    ("answer in/run", "--seeds", TEXTS),
    ("verify in/pack.zip", "--run-folder", TEXTS),
    (ESTIMATE, "--model --dtype --protocol --correct", TEXTS),
    (ESTIMATE, "--cards", LOW),
    (SMALL, "--seed --gpus-per-worker", LOW),
    (LARGE, "--dtype --engine --hparams --relation-source --mend-weights --model --protocol --moments", FILLED),
    (SMALL, "--device", DEVICES),
    ("bench trace", "--facts --tokens --samples --loop-cells", MANY),
    ("bench trace", "--shape --dtype --kind --protocol", TEXTS),
    ("bench trace", "--device", DEVICES),
    ("bench trace", "--memory", ("0", "-1", "nan", "0GB", "-1GB", "nanGB", "1e999GB", ANSI)),
    ("bench edit", "--method", TEXTS),
    ("bench knockout", "--edge", TEXTS),
    ("bench edit", "--facts --loop-facts --target-tokens", MANY),
    ("bench evaluate", "--facts --loop-facts --target-tokens", FEW),
    ("bench generate", "--facts --loop-facts --tokens", FEW),
    ("bench knockout", "--facts --loop-facts --tokens --window", FEW),
    ("bench where", "--site --token", TEXTS),
    ("bench report", "--records", MANY),
    ("world train --out out/w", "--steps", FEW),
    ("world train --out out/w --steps 0", "--seed --masked", TEXTS),
)
OUTPUTS = (
    ("trace", "--json", ""),
    ("trace", "--figure", ".png"),
    ("score", "--json", ""),
    ("edit", "--out", ".safetensors"),
    (APPLY, "--out", ""),
    (GENERATE, "--json", ""),
    (f"{CONVERT} --from easyedit", "--out", ""),
    ("facts new", "--out", ""),
    ("compare in/run in/run", "--csv", ".csv"),
    ("baseline in/run --hardware none", "--out", ""),
    (TRAIN, "--out", ".safetensors"),
    (MOMENTS, "--out", ""),
    ("report in/run", "--out", ""),
    ("recover in/run", "--out", ""),
    ("contribute in/run", "--out", ".zip"),
    ("answer in/run", "--json", ""),
    ("facts describe world", "--out", ""),
    ("knockout", "--json", ""),
    (f"{SEQUENCE} --sequence 1", "--json", ""),
    (f"{TUNE} --grid in/grid.json", "--out", ".json"),
    ("figures in/run --only edits-entity", "--out", ""),
    ("answer in/run in/run", "--seeds", ""),
)
VARIABLES = (
    *("KLOC_CACHE", "KLOC_MIRROR", "XDG_CACHE_HOME", "HOME", "TMPDIR", "COLUMNS", "LINES", "TERM", "TZ", "LANG"),
    *("NO_COLOR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SOURCE_DATE_EPOCH", "http_proxy", "MPLBACKEND"),
)
ODD_WORDS = (
    *([], ["--version", ANSI], [ANSI], ["\udcff"], ["x" * 5000], ["--", "trace"], ["fetch", "--check", ANSI]),
    *(["bench", ANSI], ["trace", "--model", "world", "--prompt", "x " * 200, "--subject", "x"]),
)
ODD_LINES = (
    *("trace", "edit --help x", "trace -- --model", "bench", "world", "smoke --limit", "run", "status a b", "merge"),
    *(
        "verify in/model",
        "verify in/facts.json",
        "report in/facts.json",
        "recover in/model --out out/r",
        "compare in/run in/model",
    ),
    *("score --model in/model --cases in/model", "edit --model in/facts.json"),
    *("trace --model in/run --prompt ab --subject a", "run full --limit 1 --device cpu --out out/x"),
    "moments --model in/model --texts in/model/model.safetensors --out out/m",
    "moments --model in/model --texts in/model --out out/m",
    "moments --model in/model --texts - --samples 3 --out out/m",
)


def case(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    return draw.choice((_option, _option, _option, _output, _environment, _odd_command))(draw, box, make)


def _command(box: Box, make: dict[str, Any], line: str) -> list[str]:
    """The words of a command line of the tables."""
    words: list[str] = make[line](box) if line in make else box.command(line)
    return words


def _option(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    each = [(line, option, values) for line, options, values in OPTIONS for option in options.split() or [""]]
    line, option, values = draw.choice(each)
    value = draw.choice(values)
    base = _without(_command(box, make, line), option)
    return _made(f"{base[0]} {option} {value[:60]!r}", [*base, option, value] if option else [*base, value], make)


def _without(command: list[str], option: str) -> list[str]:
    if option not in command:
        return command
    at = command.index(option)
    return command[:at] + command[at + 2 :]


NEEDED = (
    *("facts.json", "request.json", "rome.json", "moments", "prefixes.json", "texts.txt", "training.json"),
    *("run", "edit.safetensors", "easyedit.json", "ft.json", "pack.zip", "grid.json"),
)


def _made(words: str, arguments: list[str], make: dict[str, Any], **more: Any) -> Case:
    needs = make["needs"](*NEEDED)
    # A word such as ".." as a folder for results is the user's own wish; where the box ends is not to be written.
    may = ("out", "cwd", "in/run/report") if "--out" in arguments or arguments[:1] == ["report"] else ("out",)
    return Case(
        "arguments",
        words,
        arguments,
        "free",
        needs,
        may,
        judged=True,
        several_lines=arguments[:1] in (["fetch"], ["status"]),
        **more,
    )


def _output(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    """Outputs whose place is a link, a pipe, a folder, a full device, too long, or below a file."""
    where = draw.choice(
        ("link", "dangling", "pipe", "folder", "/dev/full", "/dev/null", "long", "below", "read-only", "loop")
    )
    name = {"long": "x" * 5000, "below": "file/t.json", "read-only": "closed/t.json"}.get(where, "t.json")
    line, option, ending = draw.choice(OUTPUTS)
    command = _command(box, make, line)
    path = where if where.startswith("/") else str(box.out / f"{name}{ending}")

    def damage(at: Box) -> None:
        target = Path(path)
        if where in ("link", "dangling"):
            target.symlink_to(at.elsewhere / ("precious" if where == "link" else "new"))
        elif where == "loop":
            target.symlink_to(target)
        elif where == "pipe":
            os.mkfifo(target)
        elif where == "folder":
            (target / "full").mkdir(parents=True)
        elif where == "below":
            (at.out / "file").write_text("precious")
        elif where == "read-only":
            (at.out / "closed").mkdir(mode=0o500)

    return _made(f"{command[0]} {option} to {where}", [*_without(command, option), option, path], make, damage=damage)


def _environment(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    name, value = draw.choice(VARIABLES), draw.choice(tuple(one for one in TEXTS if "\0" not in one))
    line = draw.choice(("fetch", "fetch --check", "doctor", "fetch known", "trace", "status in/run"))
    command = _command(box, make, line)
    if command == ["fetch", "known"] and name not in ("KLOC_CACHE", "KLOC_MIRROR"):
        command = ["fetch"]
    env = {name: value}
    found = _made(f"{command[0]} with {name}={value[:60]!r}", command, make, env=env, host=_quick)
    found.writes = (*found.writes, "cache", "hub", "cwd", "home")
    return found


def _odd_command(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    elsewhere = ["status", str(box.elsewhere)]
    command = draw.choice((*ODD_WORDS, *map(box.command, ODD_LINES), elsewhere))
    stdin = draw.choice((b"", b"\xff\xfe\x00", b"y\n" * 5, bytes(range(256)) * 4))
    return _made(" ".join(command)[:80], command, make, stdin=stdin, host=_quick)


def _quick(box: Box, draw: Any) -> Any:
    from .hosts import hurried

    return hurried()
