"""The process that runs cases: one JSON line in for each, two out. drive.py starts it, watches the clock, and starts
another where it died or hung.
"""

import json
import os
import random
import resource
import sys
from pathlib import Path

MEMORY = 6 << 30
"""Bytes of address space beyond what is taken at the start: a case that asks for more gets an error instead."""


def main(root: Path, draws: bool) -> None:
    from .box import Box

    box = Box(root)
    box.empty()
    os.environ.update(box.environment())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed between cases is not an answer
    import torch

    torch.set_num_threads(1)
    from .judge import judge
    from .kinds import KINDS

    if not draws:
        from artifact.reporting import drawing

        drawing.draw_here = lambda one, forms, width: [b""] * len(forms)
    if not (box.material / "checkpoints").exists():  # made last
        from .material import make

        make(box)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        kind, seed, number = json.loads(line)
        draw = random.Random(f"{seed}/{kind}/{number}")
        case = KINDS[kind](draw, box)
        told = {"words": case.words, "command": case.arguments, "env": case.env}
        print(json.dumps(told), file=answers, flush=True)
        found, ended = judge(box, case, draw)
        answer = {**told, "found": found, "code": ended.code, "said": ended.err[-2000:], "seconds": ended.seconds}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), draws=len(sys.argv) == 2)
