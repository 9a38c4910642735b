"""A trace kind is one entry of one table: a new one reaches plan, command line, sweep, estimate and charts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import artifact
from artifact.errors import SettingError
from artifact.tracing.kinds import TRACE_KINDS, trace_kind

PACKAGE = Path(artifact.__file__).parent
FIRST = "    for one in (\n        _HIDDEN,\n"
ENTRIES = """\
        TraceKind("attn-layer", "attention of one layer", kind="attn-layer", site="attn", figures=("figure2",)),
        replace(
            _HIDDEN,
            name="severed-both",
            printed="hidden state, both severed",
            sever="both",
            severed=("mlp", "attn"),
            figures=("figure3",),
            line="both severed",
            look=("#009E73", "-."),
        ),
"""
USE = """
import json, sys
import numpy as np
from artifact.bench.estimate import unit_work
from artifact.bench.planned import planned
from artifact.cli import call
from artifact.editing.protocol import PROTOCOLS
from artifact.plans import find_plans, narrowed
from artifact.plans.paper import SMOKE
from artifact.reporting.charts import Chart, Panel
from artifact.reporting.expected import KindName
from artifact.reporting.figures import figure_files
from artifact.reporting.severed import severed_charts
from artifact.tracing.averages import RoleEffects

model, out = sys.argv[1:]
names = [unit.name for unit in SMOKE.units]
assert "trace-attn-layer-relation" in names and "trace-severed-both-entity" in names
narrow = narrowed(find_plans("gpt2-xl")[0], ["figure3"])
assert "trace-severed-both-relation" in [unit.name for unit in narrow.units]
units = {unit.name: unit for unit in SMOKE.units}
assert unit_work(units["trace-attn-layer-entity"], planned("gpt2"), PROTOCOLS["released"]).products > 0

def traced(*options):
    asked = ["trace", "--model", model, "--prompt", "The capital of France is", "--subject", "France", "--noise", "0.5"]
    assert call([*asked, *options, "--json", out]) == 0
    return json.load(open(out))

layer = traced("--kind", "attn-layer")
assert (layer["kind"], layer["window"], layer["sever"]) == ("attn-layer", None, None)
np.testing.assert_array_equal(layer["scores"], traced("--kind", "attn", "--window", "1")["scores"])
both = traced("--sever", "both")
assert (both["kind"], both["window"], both["sever"]) == ("hidden", None, "both")
for other in ((), ("--sever", "mlp"), ("--sever", "attn")):
    assert not np.allclose(both["scores"], traced(*other)["scores"])

effects = (RoleEffects("last subject token", np.full((3, 4), 0.25)),)
def chart(kind):
    return Chart(kind, (Panel(kind, kind, 10, "entity", effects, 3, 0, 0, 0.5, 0.1, 0),))
assert chart("attn-layer").printed_kind == "attention of one layer"
(severed,) = severed_charts([chart("hidden"), chart("severed-both")])
assert severed.summary.endswith("nothing severed 0.250, both severed 0.250")
assert len(figure_files(severed)) == 2
"""


def test_a_new_kind_is_one_entry(tmp_path: Path, reference: Path) -> None:
    """The package with two entries more in kinds.py, and nothing else."""
    package = tmp_path / "artifact"
    (package / "tracing").mkdir(parents=True)
    for folder in (PACKAGE, PACKAGE / "tracing"):
        for file in folder.iterdir():
            if file.name not in ("tracing", "kinds.py", "__pycache__"):
                (package / file.relative_to(PACKAGE)).symlink_to(file)
    table = (PACKAGE / "tracing" / "kinds.py").read_text()
    assert table.count(FIRST) == 1
    (package / "tracing" / "kinds.py").write_text(table.replace(FIRST, FIRST + ENTRIES))
    command = [sys.executable, "-c", USE, str(reference / "models" / "tiny-gpt2"), str(tmp_path / "trace.json")]
    env = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_other_file_names_a_kind() -> None:
    """Outside the table nothing is compared with a kind's name, and neither severed kinds nor all kinds are listed."""
    compared = re.compile(r'kind\b *(==|!=|in) .*"(hidden|mlp|attn)"')
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        if file != PACKAGE / "tracing" / "kinds.py":
            assert not compared.search(text) and 'Literal["hidden", "mlp", "attn"]' not in text, file
            assert not any(f'"{one.name}"' in text for one in TRACE_KINDS.values() if one.severed), file


def test_words_stand_for_one_kind() -> None:
    assert [trace_kind(one.kind, one.sever) for one in TRACE_KINDS.values()] == list(TRACE_KINDS.values())
    with pytest.raises(
        SettingError, match="--kind attn --sever mlp is not a kind of trace; give one of --kind hidden, "
    ):
        trace_kind("attn", "mlp")


def test_windows_are_cut_at_both_ends() -> None:
    assert TRACE_KINDS["hidden"].windows(3, 10) == [range(0, 1), range(1, 2), range(2, 3)]
    assert TRACE_KINDS["mlp"].windows(6, 3) == [
        range(0, 2),
        range(0, 3),
        range(1, 4),
        range(2, 5),
        range(3, 6),
        range(4, 6),
    ]
