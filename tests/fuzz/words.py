"""Command lines: every option with words and numbers that nobody should give, outputs that are links, environments."""

import os
import random
from pathlib import Path
from typing import Any

from .box import Box, Case
from .damage import ANSI
from .odd import BYTES, DEVICES, LAYERS, LOW, NUMBERS, TEXTS


def case(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    return draw.choice((_option, _option, _option, _output, _environment, _odd_command))(draw, box, make)


def _option(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    trace, score, edit = make["trace"](box), make["score"](box), make["edit"](box, "rome")
    moments = [
        "moments",
        "--model",
        str(box["model"]),
        "--texts",
        str(box["texts.txt"]),
        "--layers",
        "1",
        "--samples",
        "20",
        "--out",
        str(box.out / "m"),
    ]
    training = [
        "mend-train",
        "--model",
        str(box["model"]),
        "--facts",
        str(box["facts30.json"]),
        "--steps",
        "1",
        "--rank",
        "2",
        "--out",
        str(box.out / "n.safetensors"),
    ]
    run = str(box["run"])
    base, option, values = draw.choice(
        (
            (trace, "--model", TEXTS),
            (trace, "--prompt", TEXTS),
            (trace, "--subject", (*TEXTS, "M", "was", "by", "Microsoft ", "microsoft")),
            (trace, "--samples", LOW),
            (trace, "--window", (*NUMBERS,)),
            (trace, "--noise", (*NUMBERS, "s", "s3", "s0", "s-1")),
            (trace, "--memory", BYTES),
            (trace, "--device", DEVICES),
            (trace, "--template", TEXTS),
            (trace, "--facts", TEXTS),
            (trace, "--kind", TEXTS),
            (trace, "--corrupt", ("relation", *TEXTS)),
            (trace, "--correct", TEXTS),
            (trace, "--protocol", TEXTS),
            (trace, "--relation-span", ("after", "template", *TEXTS)),
            (trace, "--sever", ("mlp", "attn", *TEXTS)),
            (score, "--cases", TEXTS),
            (score, "--edit", TEXTS),
            (score, "--memory", BYTES),
            (score, "--device", DEVICES),
            (edit, "--request", TEXTS),
            (edit, "--moments", TEXTS),
            (edit, "--prefixes", TEXTS),
            (edit, "--hparams", TEXTS),
            (edit, "--method", TEXTS),
            (edit, "--perspective", ("relation", *TEXTS)),
            (edit, "--memory", BYTES),
            (edit, "--mend-weights", TEXTS),
            (moments, "--texts", TEXTS),
            (moments, "--layers", LAYERS),
            (moments, "--samples", NUMBERS),
            (moments, "--batch-tokens", LOW),
            (moments, "--checkpoint-minutes", NUMBERS),
            (training, "--rank", LOW),
            (training, "--steps", LOW[:-1]),
            (training, "--batch", LOW),
            (training, "--lr", NUMBERS),
            (training, "--validation", NUMBERS),
            (training, "--seed", NUMBERS),
            (["report", run], "--out", ("/dev/null", "/dev/full", "/proc/x", "x" * 5000)),
            (["verify"], "", TEXTS),
            (["status"], "", TEXTS),
            (["compare", run], "", TEXTS),
            (["compare", run, run], "--metric", TEXTS),
            (["recover", run], "--out", ("", "/dev/null", "/proc/x", "x" * 5000)),
            (["baseline", run, "--out", str(box.out / "b.json")], "--hardware", TEXTS),
            (["merge", run], "--out", ("/dev/null", "/proc/x/y", "x" * 300)),
            (["fetch"], "", (*TEXTS[:-4], "--check")),
            (["run"], "", TEXTS),
            (["doctor"], "--estimate", TEXTS),
            (["doctor", "--estimate", "full"], "--rate", (*BYTES, "nanTFLOPS", "0TFLOPS", "-1TFLOPS", "infTFLOPS")),
            (
                ["doctor", "--estimate", "full", "--rate", "5TFLOPS", "--bandwidth", "5GB/s", "--gpu-memory", "80GB"],
                "--gpus",
                LOW,
            ),
            (
                ["doctor", "--estimate", "full", "--rate", "5TFLOPS", "--gpu-memory", "80GB"],
                "--bandwidth",
                (*BYTES, "nanGB/s", "0GB/s", "infGB/s"),
            ),
            (["doctor", "--estimate", "full", "--rate", "5TFLOPS", "--bandwidth", "5GB/s"], "--gpu-memory", BYTES),
            (
                ["doctor", "--estimate", "smoke", "--rate", "5TFLOPS", "--bandwidth", "5GB/s", "--gpu-memory", "80GB"],
                "--limit",
                LOW,
            ),
            (
                [
                    "run",
                    "smoke",
                    "--model",
                    str(box["model"]),
                    "--only",
                    "table2",
                    "--methods",
                    "ft",
                    "--out",
                    str(box.out / "run"),
                ],
                "--limit",
                ("0", "-1", "nan", "1" * 400),
            ),
            (
                ["run", "smoke", "--model", str(box["model"]), "--limit", "1", "--out", str(box.out / "run")],
                draw.choice(("--methods", "--facts", "--shard", "--only", "--correct", "--memory")),
                tuple(t for t in TEXTS if t not in ("", " ", "\t", "\n")),
            ),
            (
                ["bench", "trace"],
                draw.choice(("--facts", "--tokens", "--samples", "--loop-cells")),
                ("0", "-1", "nan", "1" * 400, "9223372036854775808"),
            ),
            (
                ["bench", "edit"],
                draw.choice(("--facts", "--loop-facts", "--target-tokens")),
                ("0", "-1", "nan", "1" * 400, "9223372036854775808"),
            ),
            (
                ["bench", "evaluate"],
                draw.choice(("--facts", "--loop-facts", "--target-tokens")),
                ("0", "-1", "nan", "1" * 400),
            ),
            (["bench", "report"], "--records", ("0", "-1", "nan", "1" * 400, "9223372036854775808")),
            (["world", "train", "--out", str(box.out / "w")], "--steps", ("0", "-1", "nan", "1" * 400)),
        )
    )
    value = draw.choice(values)
    base = _without(base, option) if option else base
    return _made(f"{base[0]} {option} {value[:60]!r}", [*base, option, value] if option else [*base, value], make)


def _without(command: list[str], option: str) -> list[str]:
    if option not in command:
        return command
    at = command.index(option)
    return command[:at] + command[at + 2 :]


def _made(words: str, arguments: list[str], make: dict[str, Any], **more: Any) -> Case:
    needs = make["needs"](
        "facts.json",
        "request.json",
        "rome.json",
        "moments",
        "prefixes.json",
        "texts.txt",
        "facts30.json",
        "run",
        "edit.safetensors",
    )
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
    command, option, ending = draw.choice(
        (
            (make["trace"](box), "--json", ""),
            (make["trace"](box), "--figure", ".png"),
            (make["score"](box), "--json", ""),
            (make["edit"](box, "rome"), "--out", ".safetensors"),
            (["compare", str(box["run"]), str(box["run"])], "--csv", ".csv"),
            (["baseline", str(box["run"]), "--hardware", "none"], "--out", ""),
            (
                [
                    "mend-train",
                    "--model",
                    str(box["model"]),
                    "--facts",
                    str(box["facts30.json"]),
                    "--steps",
                    "1",
                    "--rank",
                    "2",
                ],
                "--out",
                ".safetensors",
            ),
            (
                [
                    "moments",
                    "--model",
                    str(box["model"]),
                    "--texts",
                    str(box["texts.txt"]),
                    "--layers",
                    "1",
                    "--samples",
                    "20",
                ],
                "--out",
                "",
            ),
            (["report", str(box["run"])], "--out", ""),
            (["recover", str(box["run"])], "--out", ""),
        )
    )
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

    found = _made(f"{command[0]} {option} to {where}", [*_without(command, option), option, path], make, damage=damage)
    found.needs |= {"run": "run"}
    return found


def _environment(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    values = tuple(one for one in TEXTS if "\0" not in one)
    name = draw.choice(
        (
            "KLOC_CACHE",
            "KLOC_MIRROR",
            "XDG_CACHE_HOME",
            "HOME",
            "TMPDIR",
            "COLUMNS",
            "LINES",
            "TERM",
            "TZ",
            "LANG",
            "NO_COLOR",
            "CUDA_VISIBLE_DEVICES",
            "OMP_NUM_THREADS",
            "SOURCE_DATE_EPOCH",
            "http_proxy",
            "MPLBACKEND",
        )
    )
    value = draw.choice(values)
    command = draw.choice(
        (
            ["fetch"],
            ["fetch", "--check"],
            ["doctor"],
            ["fetch", "known"],
            make["trace"](box),
            ["status", str(box["run"])],
        )
    )
    if command == ["fetch", "known"] and name not in ("KLOC_CACHE", "KLOC_MIRROR"):
        command = ["fetch"]
    env = {name: value}
    found = _made(f"{command[0]} with {name}={value[:60]!r}", command, make, env=env, host=_quick)
    found.writes = (*found.writes, "cache", "hub", "cwd", "home")
    return found


def _odd_command(draw: random.Random, box: Box, make: dict[str, Any]) -> Case:
    command = draw.choice(
        (
            [],
            ["--version", ANSI],
            [ANSI],
            ["\udcff"],
            ["x" * 5000],
            ["trace"],
            ["edit", "--help", "x"],
            ["--", "trace"],
            ["fetch", "--check", ANSI],
            ["trace", "--", "--model"],
            ["bench"],
            ["bench", ANSI],
            ["world"],
            ["smoke", "--limit"],
            ["run"],
            ["status", "a", "b"],
            ["merge"],
            ["verify", str(box["model"])],
            ["report", str(box["facts.json"])],
            ["status", str(box.elsewhere)],
            ["recover", str(box["model"]), "--out", str(box.out / "r")],
            ["compare", str(box["run"]), str(box["model"])],
            ["score", "--model", str(box["model"]), "--cases", str(box["model"])],
            ["trace", "--model", "world", "--prompt", "x " * 200, "--subject", "x"],
            ["edit", "--model", str(box["facts.json"])],
            ["trace", "--model", str(box["run"]), "--prompt", "a b", "--subject", "a"],
            ["run", "full", "--limit", "1", "--device", "cpu", "--out", str(box.out / "x")],
            [
                "moments",
                "--model",
                str(box["model"]),
                "--texts",
                str(box["model/model.safetensors"]),
                "--out",
                str(box.out / "m"),
            ],
            ["moments", "--model", str(box["model"]), "--texts", str(box["model"]), "--out", str(box.out / "m")],
            ["moments", "--model", str(box["model"]), "--texts", "-", "--samples", "3", "--out", str(box.out / "m")],
        )
    )
    stdin = draw.choice((b"", b"\xff\xfe\x00", b"y\n" * 5, os.urandom(0) + bytes(range(256)) * 4))
    found = _made(" ".join(command)[:80], command, make, stdin=stdin, host=_quick)
    return found


def _quick(box: Box, draw: Any) -> Any:
    from .hosts import hurried

    return hurried()
