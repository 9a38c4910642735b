"""kloc tune: facts set aside alone, a search that says what it chose and goes on when stopped, a file for --hparams."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from artifact.cli import call
from artifact.editing import tuned as tuned_files
from artifact.editing.hparams import hparams_hash
from artifact.editing.mend_weights import read_network
from artifact.editing.method import unread
from artifact.editing.methods import METHODS
from artifact.editing.protocol import protocol_of
from artifact.editing.tuned import Tried, read_tuned
from artifact.errors import FactError, SettingError
from artifact.facts.aside import aside, is_aside, without_aside
from artifact.facts.datasets.world import world
from artifact.lm.device import Memory
from artifact.lm.load import load
from artifact.runs.editors import make_editor
from artifact.runs.store import reading
from artifact.runs.tune import FEWEST, MARGIN, Checkpoint, Search, _judged, checked_grid, chosen_of, facts_to_tune_on
from artifact.sources.catalogue import own_network

GRID = {"ft": {"norm_constraint": [1e-3, 1e-2], "num_steps": [2]}}
TUNE = "tune --model world --facts world --method ft --cases 4 --grid grid.json --out tuned.json"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("grid.json").write_text(json.dumps(GRID))
        assert call(TUNE.split()) == 0
    return folder


def test_facts_are_set_aside_by_their_subject_and_nothing_else() -> None:
    facts = world().facts
    kept = without_aside(world())
    assert 0.1 < len(aside(facts)) / len(facts) < 0.35
    assert [fact for fact in facts if not is_aside(fact)] == kept.facts
    assert {fact.subject for fact in kept.facts}.isdisjoint(fact.subject for fact in aside(facts))
    assert f"{len(aside(facts))} set aside for choosing hyperparameters and training" in kept.note
    assert all(is_aside(fact) == is_aside(fact.statement) for fact in facts)


def test_the_best_success_decides_then_specificity_then_the_grid_s_order() -> None:
    def of(*scores: tuple[float, float]) -> str:
        return chosen_of([(str(n), Tried({}, *score, 0)) for n, score in enumerate(scores)])

    assert of((0.5, 1.0), (0.9, 0.2)) == "1"
    assert of((0.9, 0.2), (0.9 - MARGIN, 0.8)) == "1", "within the margin specificity decides"
    assert of((0.9, 0.2), (0.9 - 2 * MARGIN, 1.0)) == "0"
    assert of((0.9, 0.5), (0.9, 0.5)) == "0"


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({}, "rome: the grid is empty"),
        ({"v_lr": []}, "rome: the grid is empty"),
        ({"lr": [1]}, "the grid names 'lr'; the hyperparameters are"),
        ({"layers": [[99]]}, "layer 99 is not in this model of 6 layers"),
        ({"v_lr": ["fast"]}, "correct the grid"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_tried_is_one_line(grid: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says.replace("[", r"\[")) as refused:
        checked_grid("rome", grid, METHODS["rome"].hparams_for("world", 6), 6)
    assert "\n" not in str(refused.value)


def test_every_method_declares_a_grid_that_its_hyperparameters_take() -> None:
    for name, method in METHODS.items():
        if grid := method.grid(30):
            assert checked_grid(name, grid, method.scaled(30), 30) == {key: list(grid[key]) for key in grid}
    assert {"ft", "kn", "mend", "rome", "memit"} <= {name for name, one in METHODS.items() if one.grid(30)}


def test_too_few_facts_are_refused() -> None:
    model = load("world", "cpu")
    few = [fact for fact in world().facts if is_aside(fact)][: FEWEST - 1]
    with pytest.raises(FactError, match=f"few: 3 of 3 facts are set aside .* expected at least {FEWEST}"):
        facts_to_tune_on(model, few, 24, "few", Memory(10**9, print))


def test_what_is_chosen_stands_with_all_that_was_tried(tuned: Path) -> None:
    found = read_tuned(tuned / "tuned.json")
    start = METHODS["ft"].hparams_for("world", 6)
    ft = found.methods["ft"]
    assert found.cases == [fact.case_id for fact in aside(world().facts)][:4] and "specificity" in found.criterion
    assert ft.grid == GRID["ft"] and {} in [one.values for one in ft.tried]
    assert ft.hparams == msgspec.json.decode(msgspec.json.encode(start)) | ft.values
    hparams = METHODS["ft"].hparams_for("world", 6, tuned / "tuned.json")
    assert hparams_hash(hparams) == ft.hash
    assert not list(tuned.glob("*.partial"))


def test_hparams_takes_the_file_and_the_run_names_it(tuned: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tuned)
    request = Path("one.json")
    request.write_text(json.dumps(json.loads((Path(tuned_files.__file__).parents[1] / "facts/data/world/facts.json")
                                             .read_text())[0]))  # fmt: skip
    edit = f"edit --model world --request {request} --hparams tuned.json --out e.safetensors --method"
    assert call([*edit.split(), "ft"]) == 0
    assert "chosen by kloc tune on 4 facts of world set aside (tuned.json, sha256 " in capsys.readouterr().out
    assert call([*edit.split(), "kn"]) == 2
    assert "kloc tune chose nothing for kn in it, only for ft" in capsys.readouterr().err
    run = "run real --model world --facts world --methods ft --only table2 --limit 4 --hparams tuned.json --out run"
    assert call([*run.split(), "--moments", "."]) == 0
    assert "--moments . is not used: ft reads no such file" in capsys.readouterr().out
    given = {"moments": Path("m"), "mend_weights": Path("w"), "prefixes": None}
    assert not list(unread(given, [METHODS["rome"], METHODS["mend"]]))
    (line,) = unread(given, [METHODS["rome"], METHODS["memit"]])
    assert line == "--mend-weights w is not used: rome, memit read no such file"
    with reading(Path("run")) as store:
        info = store.info()
    assert "(tuned.json, sha256 " in info.settings["ft"]["hparams_source"]
    assert info.settings["ft"]["hash"] == read_tuned(Path("tuned.json")).methods["ft"].hash
    assert info.given["--hparams"] == "tuned.json"
    assert not {fact.case_id for fact in aside(world().facts)} & set(info.cases) and len(info.cases) == 4
    assert "set aside for choosing hyperparameters" in info.data_note


def test_a_stopped_search_goes_on_and_tries_nothing_twice(tuned: Path, tmp_path) -> None:
    model, made = load("world", "cpu"), []
    editor = make_editor(model, "ft", protocol_of("released", ()))
    facts = aside(world().facts)[:4]
    path = tmp_path / "kept.partial"

    def search(identity: str, stop: Callable[[], bool]) -> Any:
        kept = Checkpoint(path)
        own = kept.of("ft", identity)
        return Search(editor, facts, GRID["ft"], own, lambda: made.append(kept.write())).run(stop)

    assert search("a", lambda: len(made) == 2) is None and len(made) == 2
    found = search("a", lambda: False)
    assert msgspec.to_builtins(found) == msgspec.to_builtins(read_tuned(tuned / "tuned.json").methods["ft"])
    assert len(made) == len(found.tried)
    kept, other = Checkpoint(path), search("other", lambda: len(made) == len(found.tried) + 1)
    assert other is None and kept.of("ft", "another") == {}, "other facts or settings begin anew"
    both = Checkpoint(path)
    assert len(both.of("ft", "a")) == len(found.tried), "and throw nothing away"
    both.finish()
    assert len(Checkpoint(path).of("ft", "other")) == 1 and Checkpoint(path).of("ft", "a") == {}
    last = Checkpoint(path)
    last.of("ft", "other")
    last.finish()
    assert not path.exists()


@pytest.mark.parametrize("method", ["ft", "rome"])
def test_a_fact_that_cannot_be_asked_is_a_failed_edit_and_no_more(method: str) -> None:
    model = load("world", "cpu")
    editor = make_editor(model, method, protocol_of("released", ()))
    facts = aside(world().facts)[:3]
    longer = replace(facts[0], paraphrases=("is " * 200 + facts[0].paraphrases[0],))
    alone, with_it = (_judged(editor, chosen, "entity") for chosen in (facts[1:], [longer, *facts[1:]]))
    assert alone[2] == 0 and with_it[2] == 1
    assert with_it[0] == pytest.approx(alone[0] * 2 / 3)


def test_stopped_before_anything_was_scored(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("artifact.runs.stop.Stop.__call__", lambda self: True)
    out = tmp_path / "tuned.json"
    assert call(f"tune --model world --method ft --facts world --cases 4 --out {out}".split()) == 3
    assert capsys.readouterr().err == "kloc: stopped; nothing was scored yet\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        *(b'{"ft": "', b'{"ft": {"identity": "\xff"}}', b'{"ft": {"more": ' + 5000 * b"[", b'{"ft": 7}'),
        b'{"ft":{"identity":"a","scored":{"b":{"values":{},"success":7.0,"specificity":0.5,"failed":0}}}}',
    ],
)
def test_a_damaged_checkpoint_begins_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "kept.partial").write_bytes(content)
    found = Checkpoint(tmp_path / "kept.partial")
    assert found.of("ft", "a") == {} and found.damage


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--facts absent", "is neither a file nor one of"),
        ("--facts few.json", "expected at least 4"),
        ("--grid other.json", "has a grid for rome, which --method does not name"),
        ("--grid text.json", "is not valid JSON"),
        ("--grid empty.json", "holds no grid; give lists of values by method and hyperparameter, or no --grid"),
        ("--cases 0", "--cases"),
        ("--model absent", "absent"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words: str, says: str, tuned: Path, tmp_path, monkeypatch,
                                                      capsys) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("grid.json").write_text(json.dumps(GRID))
    Path("other.json").write_text('{"rome": {"v_lr": [0.5]}}')
    Path("text.json").write_text("text")
    Path("empty.json").write_text("{}")
    everything = json.loads((Path(tuned_files.__file__).parents[1] / "facts/data/world/facts.json").read_text())
    Path("few.json").write_text(json.dumps(everything[:2]))
    option, value = words.split()
    line = TUNE.split()
    line[line.index(option) + 1] = value
    assert call(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert not Path("tuned.json").exists()


def test_values_that_come_with_the_package_are_a_model_s_own(tuned: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuned_files, "FOLDER", tmp_path)
    (tmp_path / "some_model.json").write_bytes((tuned / "tuned.json").read_bytes())
    own = METHODS["ft"].hparams_for("some_model", 6)
    assert hparams_hash(own) == read_tuned(tuned / "tuned.json").methods["ft"].hash
    assert "set aside (some_model.json, sha256 " in METHODS["ft"].hparams_source(own, "some_model", 6)
    assert METHODS["rome"].hparams_for("some_model", 6) == METHODS["rome"].scaled(6)
    (tmp_path / "broken.json").write_text('{"tuned": true, "methods": {}}')
    with pytest.raises(SettingError, match="broken.json: .* expected a file that kloc tune wrote"):
        METHODS["ft"].hparams_for("broken", 6)


def test_a_variant_takes_what_was_chosen_for_the_method_it_is_a_variant_of(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until something is chosen for itself; a search for it begins there."""
    content = json.loads((tuned / "tuned.json").read_text())
    chosen = content["methods"]["ft"]
    memit = METHODS["memit"].scaled(6)
    memit = msgspec.structs.replace(memit, layers=(2,), v_lr=0.1, mom2_update_weight=7.0)
    rome = msgspec.structs.replace(METHODS["rome"].scaled(6), layers=(1,), clamp_norm_factor=9.0)
    for name, hparams in (("memit", memit), ("rome", rome)):
        content["methods"][name] = chosen | {"hparams": msgspec.to_builtins(hparams)}
    monkeypatch.setattr(tuned_files, "FOLDER", tmp_path)
    (tmp_path / "varied_model.json").write_text(json.dumps(content))
    made = {name: METHODS[name].hparams_for("varied_model", 6) for name in METHODS}
    for name in ("alphaedit", "memit_merge", "pmet"):
        assert (made[name].layers, made[name].mom2_update_weight) == ((2,), 7.0), name
    assert made["alphaedit"].v_lr == made["memit_merge"].v_lr == 0.1 and made["pmet"].v_lr == 0.2
    assert made["rrome"].layers == (1,) and made["rrome"].clamp_norm_factor == made["rets"].clamp_norm_factor == 9.0
    assert made["rets"].layers == (3,), "half of the depth"
    assert METHODS["rrome"].start_for("varied_model", 6) == made["rrome"]
    source = METHODS["rrome"].hparams_source(made["rrome"], "varied_model", 6)
    assert source.startswith("as ROME's, chosen by kloc tune on ")
    assert made["emmet"] == METHODS["emmet"].scaled(6), "one layer, of its own"
    own = msgspec.structs.replace(made["rrome"], clamp_norm_factor=3.0)
    content["methods"]["rrome"] = chosen | {"hparams": msgspec.to_builtins(own)}
    (tmp_path / "varied_again.json").write_text(json.dumps(content))
    assert METHODS["rrome"].hparams_for("varied_again", 6) == own  # another name, since what a name has is read once
    assert METHODS["rrome"].start_for("varied_again", 6) == made["rrome"], "so that a search can be repeated"


def test_what_comes_with_the_package_for_a_model_is_for_the_same_weights_and_from_facts_set_aside() -> None:
    """SmolLM2's values and MEND's network; no model is needed to read them."""
    found = read_tuned(tuned_files.FOLDER / "smollm2.json")
    network = read_network(own_network("smollm2"))
    assert found.model == "smollm2" and network.weights_sha256 == found.weights_sha256
    assert {"ft", "rome", "memit"} <= set(found.methods)
    for name, chosen in found.methods.items():
        hparams = METHODS[name].hparams_for("smollm2", 30)
        assert hparams_hash(hparams) == chosen.hash
        assert "chosen by kloc tune on" in METHODS[name].hparams_source(hparams, "smollm2", 30)
        best = [chosen_of([(str(n), one) for n, one in enumerate(chosen.tried)])]
        assert chosen.tried[int(best[0])].values == chosen.values
