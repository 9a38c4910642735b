"""The cluster engine: a run's batches computed by Ray workers, one a GPU, or one a processor where there is no GPU.

Covers connecting to Ray, workers that join once they have loaded the model, handing out batches one at a time, and lost
workers. The driver writes the journal and loads no model; what a worker does is worker.py's. The other machines need
the package and the fetched files beforehand.

RAY_ADDRESS names the cluster; without it one is started on this machine and ended with the run. When a stop is asked
for, the batches in hand are finished and stored; a second Ctrl-C gives them up.
"""

import importlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact import __version__
from artifact.errors import ArtifactError, RunError, SettingError
from artifact.facts.datasets import DATASETS
from artifact.lm.device import ROOM
from artifact.lm.dtype import torch_dtype
from artifact.plans.unit import Plan
from artifact.runs.describe import RunInfo, described, first_difference
from artifact.runs.engine import Batch, Computed, Engine
from artifact.runs.resolve import Asked
from artifact.runs.stop import stopping
from artifact.runs.took import counted
from artifact.runs.worker import Prepared, Worker

Say = Callable[[str], None]
MAY_DIFFER = ("device", "model_reason", "file_notes")
LOSSES_A_WORKER = 3
"""Lost workers, for each that the cluster has room for, after which no more are started."""
LOSSES_A_BATCH = 3
"""Lost workers after which the batch that they computed is blamed."""
ROOM_SECONDS = 60.0
"""Seconds that a new worker may wait for room on the cluster when no other is left."""
OBJECT_STORE = 256_000_000
"""Bytes of Ray's object store on a cluster of our own: records are small."""
_PASSED_ON = ("HF_", "KLOC_")
"""Prefixes of the environment variables that say where models and data are."""


def ray_engine(plan: Plan, asked: Asked, say: Say, begun: RunInfo | None) -> Engine:
    """The engine of a Ray cluster, with its first worker ready to compute.

    Raises SettingError without Ray, RunError when no cluster answers or has room, and what `prepare` raises.
    """
    try:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report each cluster to its makers
        ray = importlib.import_module("ray")
    except ImportError:
        raise SettingError(
            "--engine ray needs Ray, which is not installed; install it with: pip install -c constraints.txt "
            "'.[cluster]'"
        ) from None
    engine = Cluster(ray, plan, asked, say)
    try:
        engine.start(begun)
    except BaseException:
        engine.close()
        raise
    return engine


@dataclass(eq=False)
class _Member:
    """A worker as the driver sees it."""

    number: int
    actor: Any
    placed: Any
    host: str = "a machine of the cluster"
    node: str = ""


class _Lost(Exception):
    """A worker is gone, with the reason."""


class Cluster:
    """The engine that computes on Ray workers. They join as they become ready, also while others compute."""

    info: RunInfo

    def __init__(self, ray: Any, plan: Plan, asked: Asked, say: Say) -> None:
        self._ray, self._plan, self._asked, self._say = ray, plan, asked, say
        self._idle: list[_Member] = []
        self._joining: dict[Any, _Member] = {}
        self._members: list[_Member] = []
        self._started = self._lost = self._most = 0
        self._said: set[str] = set()
        self._begun: RunInfo | None = None
        self._needs: dict[str, float] = {}
        self._ours = _connect(ray)

    def start(self, begun: RunInfo | None) -> None:
        """Start the first worker and wait for it: what it is prepared for is what the run is."""
        machines, group = self._machines(), self._asked.gpus_per_worker
        cards = [int(has.get("GPU", 0)) for has in machines.values()]
        if group > max(cards, default=0) and group > 1:
            raise RunError(
                f"--gpus-per-worker {group}: no machine of the Ray cluster has as many GPUs (the most is "
                f"{max(cards, default=0)}); give fewer, or add such a machine"
            )
        self._needs = {"GPU": group} if any(cards) else {"CPU": 1}
        self._begun = begun
        self._start_one()
        while self._joining:
            self._most = self._room(self._machines())
            if not self._most:
                raise RunError("the Ray cluster has neither a GPU nor a processor to give; add machines to it")
            ready, _ = self._ray.wait(list(self._joining), timeout=ROOM_SECONDS)
            if ready:
                self._join(ready[0], first=True)
            elif not self._placed():
                self._tell(["waiting for a free place on the Ray cluster"])
        if not self._members:
            raise RunError(
                "the first worker was lost while it loaded the model; give the cluster machines with more memory, or "
                "see Ray's logs"
            )
        # The others take what the first one took: its model, prefixes and budget.
        self._begun = self.info
        # Weights pass through main memory on their way to a GPU, too.
        room = ROOM if "CPU" in self._needs else 1
        self._needs["memory"] = round(self.info.parameters * torch_dtype(self.info.dtype).itemsize * room)

    def compute(self, batches: Sequence[Batch], stop: Callable[[], bool]) -> Generator[Computed, None, None]:
        """The records of each batch, in the order in which workers finish them.

        A batch whose worker is lost goes to another. Raises RunError when none is left, when a batch takes down
        LOSSES_A_BATCH workers, and when a worker joins that is prepared for something else.
        """
        waiting, losses = deque(batches), Counter[Batch]()
        working: dict[Any, tuple[_Member, Batch]] = {}
        try:
            while True:
                if stop():
                    waiting.clear()
                self._fill(len(waiting) + len(working))
                while waiting and self._idle:
                    member, batch = self._idle.pop(), waiting.popleft()
                    working[member.actor.compute.remote(batch)] = member, batch
                if not working and not waiting:
                    return
                done = self._first(working)
                if done in self._joining:
                    self._join(done)
                    continue
                member, batch = working.pop(done)
                try:
                    computed, lines = self._get(done, member)
                except _Lost as lost:
                    losses[batch] += 1
                    self._leave(member, f"{lost}; its batch goes to another")
                    if losses[batch] == LOSSES_A_BATCH:
                        raise RunError(
                            f"{batch.unit.name}: {LOSSES_A_BATCH} workers were lost on the cases "
                            f"{', '.join(map(str, batch.cases))}; give less --memory, or machines with more, and run "
                            "the same command again: what was stored is kept"
                        ) from None
                    waiting.appendleft(batch)
                    continue
                self._tell(lines)
                self._idle.append(member)
                yield computed
        finally:
            for member, _ in working.values():
                self._drop(member)

    def weights_hash(self) -> str:
        """sha256 of the weights of all workers, or of the first one whose weights are not the run's."""
        hashes: list[str] = []
        for asked, member in [(member.actor.weights_hash.remote(), member) for member in self._idle]:
            try:
                hashes.append(self._get(asked, member))
            except _Lost as lost:
                self._leave(member, str(lost))
        if not hashes:
            raise RunError("no worker is left whose weights could be checked; run the same command again")
        return next((one for one in hashes if one != self.info.weights_sha256), hashes[0])

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        for member in list(self._members):
            self._drop(member)
        if self._ours:
            with _signals_kept():
                self._ray.shutdown()

    def _machines(self) -> dict[str, dict[str, float]]:
        """What the living machines of the cluster have in all, by node id."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _room(self, machines: dict[str, dict[str, float]]) -> int:
        """How many workers the machines have room for, those that run counted."""
        return sum(
            min(int(has.get(name, 0) // amount) for name, amount in self._needs.items()) for has in machines.values()
        )

    def _fill(self, wanted: int) -> None:
        """Start workers while there is room and work for them, and forget those whose machine is gone."""
        if not wanted:
            return
        machines = self._machines()
        for member in [member for member in self._idle if member.node not in machines]:
            self._idle.remove(member)
            self._leave(member, "its machine left the cluster")
        room = self._room(machines)
        self._most = max(self._most, room)
        for done, member in list(self._joining.items()):
            if len(self._members) > room and not self._ray.wait([member.placed], timeout=0)[0]:
                del self._joining[done]  # the room it waits for left with a machine
                self._drop(member)
        while len(self._members) < min(room, wanted) and self._lost <= LOSSES_A_WORKER * self._most:
            self._start_one()

    def _start_one(self) -> None:
        self._started += 1
        options: dict[str, Any] = {"num_gpus": self._needs.get("GPU", 0), "num_cpus": self._needs.get("CPU", 0)}
        if "memory" in self._needs:
            options["memory"] = self._needs["memory"]
        passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        actor = self._ray.remote(Worker).options(**options).remote(os.getcwd(), passed)
        member = _Member(self._started, actor, actor.placed.remote())
        self._members.append(member)
        there = _files(self._asked)
        self._joining[actor.prepare.remote(self._plan, self._asked, self._begun, there)] = member

    def _first(self, working: dict[Any, Any]) -> Any:
        """The next of these to be there: a batch, or a new worker."""
        while True:
            refs = [*self._joining, *working]
            if not refs:
                raise _none_left()
            ready, _ = self._ray.wait(refs, timeout=None if working else ROOM_SECONDS)
            if ready:
                return ready[0]
            if not self._placed():
                raise _none_left()

    def _placed(self) -> bool:
        """Whether a joining worker has found a machine."""
        ready, _ = self._ray.wait([member.placed for member in self._joining.values()], timeout=0)
        return bool(ready)

    def _join(self, done: Any, first: bool = False) -> None:
        """Take a worker that is prepared; RunError when it is prepared for something else than the first one was."""
        member = self._joining.pop(done)
        try:
            prepared: Prepared = self._get(done, member)
        except _Lost as lost:
            self._leave(member, f"{lost}")
            return
        member.host, member.node = prepared.host, prepared.node
        if prepared.version != __version__:
            raise RunError(
                f"{prepared.host}: has kloc-artifact {prepared.version}, here is {__version__}; install the same"
            )
        if first:
            self.info = prepared.info
        differs = first_difference(described(self.info), described(prepared.info), MAY_DIFFER)
        if differs is not None:
            name, there, here = differs
            raise RunError(
                f"{prepared.host}: a worker there has another {name} ({here}, the first worker {there}); give every "
                "machine the same packages (constraints.txt), files and kind of device"
            )
        counted(prepared.seconds)
        self._tell(prepared.said)
        self._say(f"worker {member.number}: {prepared.info.device} on {prepared.host}, process {prepared.process}")
        self._idle.append(member)

    def _get(self, done: Any, member: _Member) -> Any:
        """A worker's answer; its ArtifactErrors as they are, _Lost when it is gone."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(done)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, ArtifactError):
                raise error.cause from None
            raise
        except exceptions.RayError as error:
            raise _Lost(_reason(error)) from None

    def _leave(self, member: _Member, why: str) -> None:
        """Count a worker that was lost, and say so."""
        self._lost += 1
        self._drop(member)
        end = ""
        if self._lost == LOSSES_A_WORKER * self._most + 1:
            end = f"; after {self._lost} losses no more are started"
        self._say(f"worker {member.number} on {member.host} was lost: {why}{end}")

    def _drop(self, member: _Member) -> None:
        self._members.remove(member)
        with suppress(Exception):  # it may be gone, and Ray with it
            self._ray.kill(member.actor)

    def _tell(self, lines: Sequence[str]) -> None:
        """What workers say, once."""
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                self._say(line)


def _files(asked: Asked) -> dict[str, str]:
    """The files and folders that the user named and this machine has, by option."""
    named = {option: path for option, path in asked.given.options().items() if path and path not in DATASETS}
    named["--model"] = asked.model
    return {option: path for option, path in named.items() if Path(path).exists()}


def _connect(ray: Any) -> bool:
    """Connect to RAY_ADDRESS, or start a cluster on this machine; False when this process is connected already."""
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address is None else {}
    try:
        with _signals_kept():
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at RAY_ADDRESS {address}"
        raise RunError(
            f"no Ray cluster {where} ({_reason(error)}); start one with ray start --head and name it in RAY_ADDRESS"
        ) from None
    return True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Start or end Ray, which takes SIGTERM for itself: a stop asked for raises KeyboardInterrupt when that is done."""
    with stopping() as stop:
        try:
            yield
        except SystemExit:  # Ray's own answer to SIGTERM
            stop.asked = True
    if stop.asked:
        raise KeyboardInterrupt


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _none_left() -> RunError:
    return RunError(
        "no worker is left and the cluster has no room for a new one; run the same command again when it has: what was "
        "stored is kept"
    )
