"""The benchmark compares what it says it compares: same cells, same scores. Its speeds are no test."""

from pathlib import Path

import pytest
import torch

from artifact.bench import shapes
from artifact.bench.knockout import bench_knockout
from artifact.bench.report import write_run
from artifact.bench.shapes import peak_words
from artifact.bench.trace import bench_trace
from artifact.cli import call
from artifact.errors import SettingError
from artifact.evaluation.metrics import COLUMNS, OPTIONAL
from artifact.lm.device import Memory
from artifact.reporting.verdict import measured_run
from artifact.runs.store import reading
from artifact.tracing.edges import EDGES

TINY = {
    "gpt2": {"model_type": "gpt2", "n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 50257},
    "gpt-j": {
        "model_type": "gptj",
        "n_layer": 3,
        "n_embd": 32,
        "n_head": 2,
        "rotary_dim": 8,
        "vocab_size": 50257,
        "tie_word_embeddings": False,
    },
}


@pytest.mark.parametrize("shape", TINY)
def test_sweep_and_loop_agree(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, shape, TINY[shape])
    found = list(
        bench_trace(
            shape,
            "cpu",
            torch.float32,
            ["hidden", "mlp", "attn"],
            tokens=5,
            samples=3,
            facts=2,
            loop_cells=100,
            memory=Memory(10**9),
        )
    )
    assert [one.kind for one in found] == ["hidden", "mlp", "attn"]
    for one in found:
        assert one.cells == one.timed_cells == 15
        assert one.difference < 1e-4
        assert one.sweep_operations > 0 and one.rate > 0 and one.ratio > 0
        assert len(list(one.lines())) == 4


@pytest.mark.parametrize("shape", TINY)
def test_knockouts_and_one_pass_a_window_agree(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, shape, TINY[shape])
    edges = list(EDGES.values())
    found = bench_knockout(shape, "cpu", edges, tokens=6, window=2, facts=2, loop_facts=2, count=False)
    assert found.passes == 15
    assert found.difference < 1e-5 and found.relative < 1e-3
    assert len(list(found.lines())) == 4


def test_knockouts_are_timed_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(shapes.SHAPES, "gpt2", TINY["gpt2"])
    assert call(["bench", "knockout", "--device", "cpu", "--tokens", "4", "--edge", "last-subject"]) == 0
    out = capsys.readouterr().out
    assert "last token to subject; 3 windows a fact" in out and "times as fast; largest difference" in out


def test_a_sample_of_cells_is_scaled_and_said(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(shapes.SHAPES, "gpt2", TINY["gpt2"])
    assert call(["bench", "trace", "--device", "cpu", "--tokens", "4", "--samples", "2", "--loop-cells", "3"]) == 0
    out = capsys.readouterr().out
    assert "(from 3 of 12 cells, scaled)" in out
    assert "hidden:" in out and "mlp:" in out and "times as fast" in out


def test_a_shape_beyond_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_memory", lambda device: 10**9)
    with pytest.raises(SettingError, match=r"gpt-j needs 24 GB for its weights and cpu has 1 GB"):
        shapes.random_module("gpt-j", "cpu", torch.float32)


def test_the_invented_run_that_a_report_is_timed_on_is_whole(tmp_path: Path) -> None:
    """Each unit with its planned cases, and no column without numbers but those that CounterFact has none for."""
    written = write_run(tmp_path, 60)
    with reading(tmp_path) as store:
        run = measured_run(store)
        assert written == sum(count.total() for count in store.counts().values())
    assert len(run.traced.traces) == 10 and len(run.rows) == 11
    columns = {column for column in COLUMNS if column.group not in OPTIONAL}
    for row in run.rows:
        assert row.complete and columns == {column for _, column in row.values}


def test_peaks_are_of_each_way_on_a_gpu_alone() -> None:
    """A process's peak never falls: of the second way it says nothing."""
    assert peak_words(3 * 10**9, 10**9, "cuda:0") == (", peak 3.00 GB", ", peak 1.00 GB")
    assert peak_words(10**9, 3 * 10**9, "cpu") == ("", "; peak of the process, both ways: 3.00 GB")
