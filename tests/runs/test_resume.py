"""What a run that goes on takes from the run that began: prefixes and a batch's budget; and how two runs differ."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact import __version__
from artifact.editing.methods import moment_layers
from artifact.editing.moments.files import Moments
from artifact.errors import RunError
from artifact.lm.device import ROOM, Memory
from artifact.lm.load import load
from artifact.plans.paper import SMOKE
from artifact.progress import Display
from artifact.runs.cluster import Cluster
from artifact.runs.describe import RunInfo, first_difference
from artifact.runs.editors import default_moments
from artifact.runs.engine import Batch, Computed
from artifact.runs.merge import merge
from artifact.runs.resolve import Asked, prepare
from artifact.runs.runner import run_plan
from artifact.runs.store import begin, reading, writing
from artifact.runs.worker import Prepared, Worker

EDITS = {"rome-entity", "memit-entity"}
PLAN = msgspec.structs.replace(SMOKE, units=tuple(unit for unit in SMOKE.units if unit.name in EDITS))
SHORT = msgspec.structs.replace(SMOKE, units=tuple(unit for unit in SMOKE.units if unit.name == "unedited"))
ASKED = Asked("world", limit=1, device="cpu")


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def moments() -> Moments:
    """The world's, made once."""
    return default_moments(load("world"), moment_layers(("rome", "memit"), "world", 6))


@pytest.fixture(autouse=True)
def _made_once(moments: Moments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.runs.context.default_moments", lambda *_, **__: moments)


@pytest.fixture(scope="module")
def begun(moments: Moments) -> RunInfo:
    """What a run is that began on another machine, whose device drew one token otherwise."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("artifact.runs.context.default_moments", lambda *_, **__: moments)
        info = prepare(PLAN, ASKED, silent)[1]
    settings = json.loads(json.dumps(info.settings))
    settings["rome"]["prefixes"][20] = "elsewhere . {}"
    settings["memit"]["prefixes"][1][4] = "elsewhere . {}"
    return msgspec.structs.replace(info, settings=settings)


def test_a_run_goes_on_with_the_prefixes_it_began_with(begun: RunInfo, tmp_path: Path) -> None:
    with writing(tmp_path / "run") as store:
        begin(store, begun)
    run_plan(PLAN, ASKED, show=Display(), out=tmp_path / "run")
    with reading(tmp_path / "run") as store:
        assert store.info() == begun and all(store.done(unit) for unit in PLAN.units)
    context = prepare(PLAN, ASKED, silent, begun)[0]
    assert list(context.editor("rome").prefixes) == begun.settings["rome"]["prefixes"]
    assert list(context.editor("memit").prefixes) == begun.settings["memit"]["prefixes"]


def test_a_merged_run_goes_on_with_its_parts_prefixes(begun: RunInfo, tmp_path: Path) -> None:
    with writing(tmp_path / "part") as store:
        begin(store, msgspec.structs.replace(begun, shard=(1, 2)))
    merge([tmp_path / "part"], tmp_path / "whole")
    run_plan(PLAN, ASKED, show=Display(), out=tmp_path / "whole")
    with reading(tmp_path / "whole") as store:
        assert store.info().settings == begun.settings


@pytest.mark.parametrize("asked", ["world", "auto"])
def test_the_usual_folder_is_gone_on_with_too(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --out its name holds the model, which `auto` chooses first and once."""
    monkeypatch.chdir(tmp_path)
    chosen: list[str] = []
    monkeypatch.setattr("artifact.runs.resolve.cached", lambda model: False)
    monkeypatch.setattr(
        "artifact.runs.resolve.hub_answers", lambda model: (bool(chosen.append("asked")), "the hub is away")
    )
    for memory in (2 * 10**9, 10**9):
        monkeypatch.setattr("artifact.runs.resolve.default_memory", lambda *_, memory=memory: memory)
        run_plan(SHORT, Asked(asked, limit=1, device="cpu"), show=Display())
    with reading(tmp_path / "results" / "smoke-world") as store:
        info, (environment,) = store.info(), store.environments()
    assert info.memory == environment["memory"] == 2 * 10**9
    if asked == "auto":
        assert len(chosen) == 2 and info.model_reason.startswith("auto: the hub is away")
        assert capsys.readouterr().out.count("model: world (auto: the hub is away") == 2


class Rays:
    """Ray itself is left out: workers in this process that answer at once."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=KeyError)
        self.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: "one")
        self.is_initialized = lambda: True
        self.nodes = lambda: [{"NodeID": "one", "Alive": True, "Resources": {"CPU": 2, "memory": 1e12}}]
        self.wait = lambda refs, **_: (refs[:1], refs[1:])
        self.get = lambda ref: ref()
        self.kill = lambda actor: None
        self.reserved: list[dict[str, Any]] = []

    def remote(self, kind: type) -> SimpleNamespace:
        def made(*given: object) -> SimpleNamespace:
            worker = kind(*given)

            def remote(name: str) -> SimpleNamespace:
                # A reference is a call that was not made yet.
                return SimpleNamespace(remote=lambda *given: lambda: getattr(worker, name)(*given))

            return SimpleNamespace(**{name: remote(name) for name in ("placed", "prepare", "compute", "weights_hash")})

        def options(**given: Any) -> SimpleNamespace:
            self.reserved.append(given)
            return SimpleNamespace(remote=made)

        return SimpleNamespace(options=options)


def test_ray_workers_take_the_prefixes_of_the_run(begun: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first those of the run that goes on, the others those of the first, whatever their device would draw."""
    ray = Rays()
    monkeypatch.setitem(sys.modules, "ray", ray)
    prepared: list[Prepared] = []
    really = Worker.prepare

    def kept(*given: object) -> Prepared:
        prepared.append(really(*given))
        return prepared[-1]

    monkeypatch.setattr(Worker, "prepare", kept)
    cluster = Cluster(ray, PLAN, ASKED, silent)
    cluster.start(begun)
    monkeypatch.setattr("artifact.runs.editors.draw_prefixes", lambda *_, **__: ["{}", "drawn otherwise . {}"])
    found = list(cluster.compute([Batch(PLAN.units[0], (one,)) for one in begun.cases[:2]], lambda: False))
    assert len(prepared) == len(found) == 2
    assert all(json.loads(json.dumps(one.info.settings)) == begun.settings for one in prepared)
    cluster.close()


@pytest.mark.parametrize(("has", "share"), [({"CPU": 2}, ROOM), ({"CPU": 2, "GPU": 2}, 1)], ids=["CPU", "GPU"])
def test_ray_workers_reserve_the_main_memory_of_their_weights(
    has: dict[str, float], share: float, begun: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, too: they pass through it. The first finds out how large the model is, whichever it is."""
    ray, info = Rays(), msgspec.structs.replace(begun, parameters=7_000_000_000, dtype="bfloat16")
    ray.nodes = lambda: [{"NodeID": "one", "Alive": True, "Resources": {**has, "memory": 1e12}}]
    monkeypatch.setattr(Worker, "prepare", lambda *_: Prepared(info, __version__, "here", "one", 1, [], {}))
    monkeypatch.setattr(Worker, "compute", lambda self, batch: (Computed(batch, [], 0.0, {}), []))
    cluster = Cluster(ray, PLAN, ASKED, silent)
    cluster.start(None)
    list(cluster.compute([Batch(PLAN.units[0], (one,)) for one in (1, 2)], lambda: False))
    first, second = ray.reserved
    assert "memory" not in first and second["memory"] == round(14e9 * share)
    assert second["num_gpus"] == bool(has.get("GPU")) and cluster.info == info


def test_a_ray_worker_holds_a_group_of_cards(begun: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Rays()
    ray.nodes = lambda: [{"NodeID": "one", "Alive": True, "Resources": {"CPU": 9, "GPU": 4, "memory": 1e12}}]
    monkeypatch.setattr(Worker, "prepare", lambda *_: Prepared(begun, __version__, "here", "one", 1, [], {}))
    monkeypatch.setattr(Worker, "compute", lambda self, batch: (Computed(batch, [], 0.0, {}), []))
    cluster = Cluster(ray, PLAN, replace(ASKED, gpus_per_worker=2), silent)
    cluster.start(None)
    list(cluster.compute([Batch(PLAN.units[0], (one,)) for one in range(5)], lambda: False))
    assert [one["num_gpus"] for one in ray.reserved] == [2, 2]  # four cards are two groups
    with pytest.raises(RunError, match="--gpus-per-worker 5: no machine of the Ray cluster has as many .* is 4"):
        Cluster(ray, PLAN, replace(ASKED, gpus_per_worker=5), silent).start(None)


def test_moments_are_made_within_the_runs_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Memory | None] = []
    monkeypatch.setattr("artifact.runs.context.default_moments", default_moments)
    monkeypatch.setattr("artifact.runs.editors.compute_moments", lambda *_, memory, **__: given.append(memory))
    context, _ = prepare(SHORT, ASKED, silent)
    for name in ("world", "another"):
        replace(context, methods=("rome",), model=replace(context.model, name=name)).moments  # noqa: B018
    assert given == [context.memory] * 2


@pytest.mark.parametrize("stored", [5, [], ["no place"], [["{}"], "{}"], {"{}": 1}])
def test_what_cannot_be_prefixes_is_not_taken(stored: object, begun: RunInfo, tmp_path: Path) -> None:
    settings = json.loads(json.dumps(begun.settings))
    settings["rome"]["prefixes"] = stored
    forged = msgspec.structs.replace(begun, settings=settings)
    with writing(tmp_path / "run") as store:
        begin(store, forged)
    with pytest.raises(RunError, match="made with another settings rome prefixes"):
        run_plan(PLAN, ASKED, show=Display(), out=tmp_path / "run")


def test_a_run_goes_on_with_the_budget_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are cut by it, so that those of a resumed run are those of one that was never stopped."""
    context, info = prepare(SHORT, ASKED, silent)
    assert info.memory == context.memory.limit
    said: list[str] = []
    monkeypatch.setattr("artifact.runs.resolve.default_memory", lambda *_: 10**9)
    monkeypatch.setattr("artifact.runs.resolve.free_memory", lambda device: 3 * 10**9)
    pinned = msgspec.structs.replace(info, memory=3 * 10**9)
    context, resumed = prepare(SHORT, ASKED, said.append, pinned)
    assert (context.memory.limit, resumed.memory) == (3 * 10**9,) * 2 and not any("--memory" in one for one in said)
    pinned = msgspec.structs.replace(info, memory=3 * 10**9 + 1)
    assert prepare(SHORT, ASKED, said.append, pinned)[0].memory.limit == 3 * 10**9 + 1
    assert "batches may take 3.0 GB, but 3.0 GB are free; give less --memory" in said
    asked = msgspec.structs.replace(info, memory=None)  # of an earlier version
    assert prepare(SHORT, ASKED, silent, asked)[0].memory.limit == 10**9


def test_memory_may_be_given_anew(tmp_path: Path) -> None:
    """The description keeps what the run began with; the machine says what it took."""
    info = prepare(SHORT, ASKED, silent)[1]
    with writing(tmp_path) as store:
        begin(store, msgspec.structs.replace(info, memory=5 * 10**8))
    run_plan(SHORT, replace(ASKED, memory="400MB"), show=Display(), out=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["memory"] == 5 * 10**8
    with reading(tmp_path) as store:
        assert [one["memory"] for one in store.environments()] == [4 * 10**8]


WORDS = st.text(max_size=80) | st.integers() | st.booleans() | st.none()
VALUES = st.recursive(
    WORDS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["name", "a", "b"]), inner),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_a_difference_is_said_in_two_texts_that_differ(one: object, other: object) -> None:
    found = first_difference({"it": one}, {"it": other})
    assert (found is None) == (one == other)
    if found is not None:
        name, then, now = found
        assert name.startswith("it") and then != now and max(len(then), len(now)) <= 63


@pytest.mark.parametrize(
    "make", [lambda text: text, lambda text: ["x" * 60, text], lambda text: {"name": "n", "a": [text]}]
)
def test_what_differs_late_is_shown(make: Callable[[str], object]) -> None:
    found = first_difference({"it": make("y" * 100 + "1")}, {"it": make("y" * 100 + "2")})
    assert found is not None and "1" in found[1] and "2" in found[2]


@pytest.mark.parametrize("make", [lambda level: level, lambda level: ["x", level], lambda level: {"level": level}])
def test_a_fraction_s_last_digits_are_no_difference(make: Callable[[float], object]) -> None:
    """Two threads sum embeddings in another order than one: a run begun on one could not go on with two."""
    one, near, other = 0.34913740502124435, 0.3491374050204191, 0.3491374
    assert first_difference({"noise level": make(one)}, {"noise level": make(near)}) is None
    assert first_difference({"noise level": make(one)}, {"noise level": make(other)}) is not None


def test_a_file_of_hyperparameters_that_got_another_methods_values_is_no_difference() -> None:
    """Its hash is in the words of where the values come from, in each method's settings."""

    def settings(v_lr: float, file: str) -> dict[str, object]:
        source = f"chosen by kloc tune on 12 facts of smollm2 set aside (smollm2.json, sha256 {file})"
        return {"settings": {"rome": {"hparams": {"v_lr": v_lr}, "hash": str(v_lr), "hparams_source": source}}}

    assert first_difference(settings(0.5, "bc359dfcb921"), settings(0.5, "17a7b1b91d13")) is None
    found = first_difference(settings(0.5, "bc359dfcb921"), settings(0.2, "bc359dfcb921"))
    assert found is not None and found[0] == "settings rome hparams v lr"


def test_noise_is_that_which_the_run_was_begun_with() -> None:
    info = prepare(SHORT, ASKED, silent)[1]
    near, other = (msgspec.structs.replace(info, noise_level=info.noise_level * (1 + x)) for x in (1e-12, 1e-3))
    assert near.noise_level != info.noise_level
    context, resumed = prepare(SHORT, ASKED, silent, near)
    assert context.noise_level == resumed.noise_level == near.noise_level
    assert prepare(SHORT, ASKED, silent, other)[1].noise_level == info.noise_level
