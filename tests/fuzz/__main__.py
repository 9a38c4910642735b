"""`python -m tests.fuzz`: cases of every kind in turn, for some minutes; each finding once, with what repeats it."""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .drive import Driver
from .kinds import KINDS, RARE


def main() -> int:
    parser = argparse.ArgumentParser(prog="nox -s fuzz --", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--cases", type=int, help="so many of each kind, however long it takes")
    parser.add_argument("--seed", type=int, help="another seed gives other cases (default: the clock)")
    parser.add_argument("--only", action="append", choices=sorted(KINDS), help="these kinds alone")
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument(
        "--keep", action="store_true", help="keep the folders of the last case, and say all that it said"
    )
    parser.add_argument("--all", action="store_true", help="show every finding, not one of each sort")
    asked = parser.parse_args()
    seed = int(time.time()) if asked.seed is None else asked.seed
    kinds, end = asked.only or list(KINDS), time.monotonic() + 60 * asked.minutes
    counts: Counter[str] = Counter()
    sorts: Counter[str] = Counter()
    with Driver(Path(tempfile.mkdtemp(prefix="kloc-fuzz-")) if asked.keep else None) as driver:
        number = asked.case or 0
        while True:
            for kind in kinds:
                if asked.only is None and number % RARE.get(kind, 1):
                    continue
                finding = driver.case(kind, seed, number)
                counts[kind] += 1
                if finding is None:
                    continue
                sort = re.sub(r"[\d.]+|'[^']*'|\"[^\"]*\"", "#", f"{kind} {finding.found[0]}")[:120]
                sorts[sort] += 1
                if sorts[sort] == 1 or asked.all:
                    print(finding, flush=True)
                if asked.keep:
                    print(finding.said)
            number += 1
            if asked.case is not None or (asked.cases is not None and number >= asked.cases):
                break
            if asked.cases is None and time.monotonic() > end:
                break
        if asked.keep:
            print(f"kept: {driver.folder / 'box'}")
        codes = {
            kind: {str(c): n for (k, c), n in sorted(driver.codes.items(), key=str) if k == kind} for kind in kinds
        }
        print(
            "slowest: "
            + ", ".join(f"{kind} {case} {seconds:.1f} s" for seconds, kind, case in reversed(driver.slowest))
        )
    print(
        f"seed {seed}: {sum(counts.values())} cases; "
        + ", ".join(f"{kind} {counts[kind]} {codes[kind]}" for kind in kinds)
    )
    print(f"{sum(sorts.values())} findings of {len(sorts)} sorts")
    return 1 if sorts else 0


if __name__ == "__main__":
    sys.exit(main())
