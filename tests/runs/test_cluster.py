"""The Ray engine on a cluster of two machines, on this one: the local run's records, whatever is lost on the way.

`nox -s cluster` runs this file; without Ray it is skipped.
"""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from artifact.cli import call
from artifact.errors import RunError, SettingError
from artifact.plans.unit import Plan, Unit
from artifact.progress import Display
from artifact.runs import cluster as module
from artifact.runs.cluster import Cluster, ray_engine
from artifact.runs.engine import Batch, Computed, Engine
from artifact.runs.inputs import Given
from artifact.runs.resolve import Asked
from artifact.runs.runner import MakeEngine, run_plan
from artifact.runs.worker import Worker
from artifact.sources.catalogue import WORLD

PLAN = Plan(
    "cluster",
    "scores, edits and traces",
    (Unit("unedited", "unedited", 2), Unit("ft-entity", "edit", 2, method="ft"), Unit("trace", "trace", 2)),
)
ASKED = Asked("world", limit=9, memory="1GB")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


def run(folder: Path, **options: Any) -> Path:
    return run_plan(PLAN, ASKED, show=Display(), out=folder, **options)


def records(folder: Path) -> list[tuple]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        return connection.execute("select * from records").fetchall()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> list[tuple]:
    """The records of the run in this process."""
    return records(run(tmp_path_factory.mktemp("local") / "run"))


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A head without processors and two machines with one each, reachable by loopback alone."""
    pytest.importorskip("ray", reason="Ray is not installed; nox -s cluster installs it")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster as Machines

    before = signal.getsignal(signal.SIGTERM)
    made = Machines(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(**NODE)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def _address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "machines" in request.fixturenames:
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("machines").address)
        monkeypatch.setattr(module, "Cluster", Patient)


class Patient(Cluster):
    """Waits after each batch until every worker that was started has loaded the model: so each takes part."""

    newest: "Patient"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Patient.newest = self

    def compute(self, *arguments: Any) -> Generator[Computed, None, None]:
        for computed in super().compute(*arguments):
            for _ in range(120):
                joining = list(self._joining)
                if not joining or len(self._ray.wait(joining, num_returns=len(joining), timeout=1)[0]) == len(joining):
                    break
                self._fill(1)  # one that waits for a machine that left is forgotten
            yield computed


def of_unit(engine: Engine) -> list[Batch]:
    """The batches of the plan's first unit."""
    return [Batch(PLAN.units[0], cases) for cases in engine.info.batches(PLAN.units[0])]


def listening(heard: Callable[[Cluster, int, int], None]) -> tuple[MakeEngine, list[str]]:
    """An engine that calls `heard` with the number and process of each worker that joins, and all that is said."""
    said: list[str] = []

    def listen(line: str) -> None:
        said.append(line)
        if found := re.match(r"worker (\d+): cpu on .*, process (\d+)$", line):
            heard(Patient.newest, int(found[1]), int(found[2]))

    return lambda plan, asked, say, begun: ray_engine(plan, asked, listen, begun), said


def test_without_ray_one_line_says_how_to_install_it(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call(["run", "smoke", "--model", "world", "--engine", "ray", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install -c constraints.txt '.[cluster]'" in said
    assert not (tmp_path / "run").exists()


def test_a_file_that_a_worker_does_not_see_is_named(tmp_path) -> None:
    asked = Asked("world", given=Given(facts="world", moments=tmp_path, mend_weights=tmp_path / "absent"))
    there = module._files(asked)
    assert there == {"--moments": str(tmp_path)}
    tmp_path.rmdir()
    with pytest.raises(SettingError, match=r"--moments .* is not on .*, where a worker runs; put it at the same path"):
        Worker(os.getcwd(), {}).prepare(PLAN, asked, None, there)


def test_the_cluster_makes_the_same_records(machines, local, tmp_path) -> None:
    taken: set[int] = set()
    handler = signal.getsignal(signal.SIGTERM)

    def heard(engine: Cluster, number: int, process: int) -> None:
        taken.add(number)
        status = Path(f"/proc/{process}/status").read_text()
        (blocked,) = re.findall(r"SigBlk:\s*(\w+)", status)
        assert int(blocked, 16) & (1 << (signal.SIGINT - 1)), "a worker would die of a Ctrl-C before its batch is done"

    engine, said = listening(heard)
    assert records(run(tmp_path / "run", engine=engine)) == local
    assert taken == {1, 2}
    assert said[0] == "model: world (asked for with --model world)" and len(said) == 4, said
    assert signal.getsignal(signal.SIGTERM) is handler
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite")) as connection, connection:
        (environments,) = connection.execute("select value from meta where key = 'environments'").fetchone()
    assert environments.count('"threads":1') == 1  # both workers are alike, and named once


def test_a_killed_worker_costs_no_record(machines, local, tmp_path) -> None:
    def heard(engine: Cluster, number: int, process: int) -> None:
        if number == 2:
            os.kill(process, signal.SIGKILL)

    engine, said = listening(heard)
    assert records(run(tmp_path / "run", engine=engine)) == local
    assert sum("worker 2 on" in line and "its batch goes to another" in line for line in said) == 1, said
    assert any(line.startswith("worker 3: cpu") for line in said), said


def test_a_batch_that_takes_its_workers_down_ends_the_run(machines, local, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LOSSES_A_BATCH", 1)
    engine, _ = listening(lambda engine, number, process: os.kill(process, signal.SIGKILL))
    with pytest.raises(RunError, match=r"unedited: 1 workers were lost on the cases \d+, \d+; give less --memory"):
        run(tmp_path / "run", engine=engine)
    assert records(run(tmp_path / "run")) == local


def test_batches_in_hand_are_finished_when_a_stop_is_asked_for(machines, tmp_path) -> None:
    with closing(ray_engine(PLAN, ASKED, lambda line: None, None)) as engine:
        batches = of_unit(engine)
        assert len(batches) == 5
        found: list[Computed] = []
        for computed in engine.compute(batches, lambda: len(found) >= 2):
            found.append(computed)
        # The first came while the second worker was joining; since then two were always in hand.
        assert len(found) == 3 and all(len(one.records) in (1, 2) for one in found)
        assert list(engine.compute(batches, lambda: True)) == []
        assert engine.weights_hash() == engine.info.weights_sha256


def test_a_worker_prepared_for_something_else_is_refused(machines, tmp_path) -> None:
    facts = tmp_path / "facts.json"
    shutil.copyfile(WORLD / "facts.json", facts)
    asked = Asked("world", limit=9, given=Given(str(facts)))
    with closing(ray_engine(PLAN, asked, lambda line: None, None)) as engine:
        facts.write_text(facts.read_text() + "\n")
        with pytest.raises(RunError, match=r"a worker there has another data sha256 \("):
            list(engine.compute(of_unit(engine), lambda: False))


def test_machines_that_leave_cost_no_record(machines, local, tmp_path, monkeypatch) -> None:
    """One leaves and the other goes on; when both have left, one line says so, and the run goes on without Ray."""

    def leave(engine: Cluster, number: int, process: int) -> None:
        (node,) = [member.node for member in engine._members if member.number == number]
        machines.remove_node(next(one for one in machines.worker_nodes if one.node_id == node), allow_graceful=False)
        # Its worker outlives it for a moment, in which it could do what is left of the run.
        until = time.monotonic() + 60
        while _running(process) and time.monotonic() < until:
            time.sleep(0.02)

    engine, said = listening(lambda engine, number, process: leave(engine, 2, process) if number == 2 else None)
    assert records(run(tmp_path / "run", engine=engine)) == local
    assert any("worker 2 on" in line and "was lost" in line for line in said), said
    monkeypatch.setattr(module, "ROOM_SECONDS", 2.0)
    engine, said = listening(lambda engine, number, process: leave(engine, 1, process))
    with pytest.raises(RunError, match="no worker is left and the cluster has no room for a new one"):
        run(tmp_path / "none", engine=engine)
    # Which of the two depends on whether Ray knows by now that the machines are gone.
    with pytest.raises(RunError, match="neither a GPU nor a processor to give|the first worker was lost"):
        run(tmp_path / "none", engine=ray_engine)
    assert records(run(tmp_path / "none")) == local


def test_ctrl_c_on_a_cluster_of_its_own_exits_3_and_leaves_no_process(tmp_path) -> None:
    """As in a terminal, the signal goes to every process of the group, Ray's own among them."""
    pytest.importorskip("ray", reason="Ray is not installed; nox -s cluster installs it")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    kloc = [sys.executable, "-c", "from artifact.cli import main; main()"]
    command = ["run", "smoke", "--model", "world", "--limit", "40", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*kloc, *command, "--engine", "ray"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, start_new_session=True,
    )  # fmt: skip

    def stored() -> int:
        try:
            return len(records(tmp_path / "run"))
        except sqlite3.Error:
            return 0

    while process.poll() is None and stored() < 50:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, (out, err)
    assert err.count("\n") == 1 and "goes on from there" in err
    assert re.search(r"^ready after .* second moments \d", out, re.M), out  # which its first worker made
    assert 50 <= stored() < 840
    left = [path.parent for path in Path("/proc").glob("[0-9]*/stat") if _session(path) == process.pid]
    assert not left, [(path / "cmdline").read_text() for path in left]


def _running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _session(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3])
    except OSError:  # it ended meanwhile
        return 0
