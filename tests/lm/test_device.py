"""Which device is used and why, what a container leaves of the memory, and batches that go on when memory runs out."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifact.cli import call
from artifact.errors import DeviceError, ModelError
from artifact.lm import device as module
from artifact.lm.device import (
    Memory,
    batches,
    check_fits,
    choose_device,
    default_memory,
    full_precision,
    host_memory,
    in_one,
    nvidia_driver,
    unusable_card,
    use_tf32,
)

VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Jul 30 01:34:40 UTC 2025\nGCC version:  gcc 12\n"


def machine(root: Path, driver: str | None = None, cards: int = 0) -> Path:
    """A root folder with what a driver and its container toolkit put there."""
    (root / "dev").mkdir(parents=True)
    for number in range(cards):
        (root / "dev" / f"nvidia{number}").touch()
    if driver is not None:
        (root / "proc/driver/nvidia").mkdir(parents=True)
        (root / "proc/driver/nvidia/version").write_text(VERSION.format(driver))
    return root


def built_for(monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)


@pytest.mark.parametrize(
    ("driver", "cards", "cuda", "said"),
    [
        (None, 0, "13.0", None),
        ("535.104.05", 1, "13.0", "needs driver 580 or newer"),
        ("580.65.06", 1, "13.0", "cannot use it: check nvidia-smi"),
        ("535.104.05", 1, "12.6", "cannot use it: check nvidia-smi"),
        ("470.82.01", 1, "12.6", "needs driver 525 or newer"),
        ("580.65.06", 0, "13.0", "--gpus all"),
        ("580.65.06", 1, None, "is built without CUDA"),
    ],
)
def test_a_card_that_torch_cannot_use_is_said_with_both_versions(tmp_path, monkeypatch, driver, cards, cuda, said):
    built_for(monkeypatch, cuda)
    found = unusable_card(machine(tmp_path, driver, cards))
    if said is None:
        assert found is None
        return
    assert said in found and driver in found and torch.__version__ in found
    assert cuda is None or f"CUDA {cuda}" in found
    assert "\n" not in found


def test_the_drivers_version_is_read_from_the_open_modules_too(tmp_path: Path) -> None:
    folder = machine(tmp_path, "1") / "proc/driver/nvidia"
    (folder / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release\n")
    assert nvidia_driver(tmp_path) == "575.57.08"
    assert nvidia_driver(tmp_path / "none") is None


def test_a_card_out_of_reach_is_an_error_unless_the_cpu_is_asked_for(tmp_path, monkeypatch, capsys) -> None:
    """Not a silent run of days on the CPU: one line, exit code 2; `--device cpu` goes on."""
    monkeypatch.setattr(
        module, "unusable_card", lambda: "an NVIDIA card is there (driver 1.2), but torch cannot use it"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DeviceError, match="driver 1.2.* or give --device cpu"):
        choose_device()
    with pytest.raises(DeviceError, match="driver 1.2"):
        choose_device("cuda")
    assert choose_device("cpu")[0] == "cpu"
    prompt = ("--prompt", "the capital of Velmora is", "--subject", "Velmora", "--samples", "1")
    assert call(["trace", "--model", "world", *prompt]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: an NVIDIA card is there") and error.count("\n") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device() == ("cpu", "CUDA_VISIBLE_DEVICES hides the GPUs")


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "CPU", "mps", "cuda:0:1", ""])
def test_what_is_no_device(asked: str) -> None:
    with pytest.raises(DeviceError, match="is unknown; expected cpu, cuda, or one GPU by number"):
        choose_device(asked)


def test_a_gpu_by_number(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
    assert choose_device() == ("cuda", "a GPU is there (a card)")
    assert choose_device("cuda:1")[0] == "cuda:1"
    with pytest.raises(DeviceError, match="this machine has 2 GPUs; give cuda:0 to cuda:1"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="this machine has 1 GPU; give cuda:0$"):
        choose_device("cuda:1")


def test_a_paper_plan_on_a_cpu_has_to_be_asked_for(capsys) -> None:
    assert call(["run", "sample", "--model", "world"]) == 2
    assert "plan sample: takes days on a CPU, and no CUDA device is there" in capsys.readouterr().err


def groups(root: Path, files: dict[str, str], group: str) -> Path:
    """A root folder with a process in `group`, and these files of control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


STAT = "anon 100\ninactive_file 500000000\n"


@pytest.mark.parametrize(
    ("group", "files", "free"),
    [
        ("0::/\n", {}, 8 * 10**9),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n", "memory.stat": STAT}, 8 * 10**9),
        # Version 2 in a container: the group's own folder is the top. Its file cache can be given back.
        ("0::/\n", {"memory.max": "2000000000\n", "memory.current": "1500000000\n", "memory.stat": STAT}, 10**9),
        # A scheduler's limit stands on a group above the process's own.
        (
            "0::/job/step\n",
            {
                "job/memory.max": "3000000000\n",
                "job/memory.current": "1000000000\n",
                "job/memory.stat": "inactive_file 0\n",
                "job/step/memory.max": "max\n",
                "job/step/memory.current": "1\n",
                "job/step/memory.stat": STAT,
            },
            2 * 10**9,
        ),
        (
            "11:cpu:/x\n5:memory:/docker/1\n",
            {
                "memory/memory.limit_in_bytes": "4000000000\n",
                "memory/memory.usage_in_bytes": "1000000000\n",
                "memory/memory.stat": "total_inactive_file 0\n",
            },
            3 * 10**9,
        ),
        ("0::/\n", {"memory.max": "1000\n", "memory.current": "5000\n", "memory.stat": "inactive_file 0\n"}, 0),
    ],
    ids=["none", "max", "v2", "above", "v1", "beyond"],
)
def test_a_containers_limit_counts_not_the_hosts(
    tmp_path: Path, monkeypatch, group: str, files: dict[str, str], free: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 10**9))
    assert host_memory(groups(tmp_path, files, group)) == free


def test_a_model_that_does_not_fit_is_refused_in_gigabytes(monkeypatch) -> None:
    monkeypatch.setattr(module, "host_memory", lambda: 10 * 10**9)
    check_fits("a model", int(10**10 / 1.3), "cpu")
    with pytest.raises(ModelError, match="needs about 13.0 GB of host memory in float32, and 10.0 GB are free"):
        check_fits("a model", 10**10, "cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 10**9, 8 * 10**9))
    with pytest.raises(ModelError, match="needs about 5.2 GB of GPU memory"):
        check_fits("a model", 4 * 10**9, "cuda:1")


def test_budgets(monkeypatch) -> None:
    """60% of what is free on a GPU once all that stays there is counted; on a CPU 2 GB, or half of what there is."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 2 * 10**10))
    assert default_memory(torch.device("cuda"), reserved=10**9) == int(0.6 * 9e9)
    assert default_memory(torch.device("cuda"), reserved=10**11) == 0
    monkeypatch.setattr(module, "host_memory", lambda: 10**11)
    assert default_memory(torch.device("cpu")) == 2 * 10**9
    monkeypatch.setattr(module, "host_memory", lambda: 10**9)
    assert default_memory(torch.device("cpu")) == 5 * 10**8


def test_tf32_is_what_was_asked_for() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for on in (True, False):
            use_tf32(on)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
            with full_precision():
                assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
    finally:
        use_tf32(before)


@given(
    costs=st.lists(st.integers(1, 20), max_size=30),
    holds=st.integers(1, 30),
    budget=st.integers(1, 200),
)
def test_every_item_is_computed_once_and_in_order(costs: list[int], holds: int, budget: int) -> None:
    """A device that holds less than the budget says: batches shrink, and an item that never fits has its own result."""
    memory = Memory(budget)

    def fitting(left) -> int:
        total = 0
        for count, cost in enumerate(left):
            total += cost
            if total > memory.limit:
                return count
        return len(left)

    def compute(part) -> list[int]:
        if sum(part) > holds:
            raise torch.OutOfMemoryError
        return list(part)

    def alone(cost: int) -> list[int]:
        assert cost > holds
        return [-cost]

    found = [(list(part), made) for part, made in batches(costs, fitting, compute, memory, alone)]
    assert [item for part, _ in found for item in part] == costs
    assert [one for _, made in found for one in made] == [cost if cost <= holds else -cost for cost in costs]
    assert 1 <= memory.limit <= budget


def test_a_hard_item_does_not_leave_the_others_a_tiny_budget() -> None:
    said: list[str] = []
    memory = Memory(64, said.append)

    def compute(part) -> int:
        if 1000 in part:
            raise torch.OutOfMemoryError
        return len(part)

    sizes = [
        len(part) for part, _ in batches([1000] * 1 + [1] * 8, lambda left: memory.limit // 4, compute, memory, id)
    ]
    assert memory.limit == 64
    assert sizes == [1, 8]
    assert said and all(line.startswith("out of memory: going on with batches for ") for line in said)


def test_a_halved_budget_grows_again() -> None:
    memory, fits = Memory(64), [16]

    def compute(part) -> int:
        if len(part) > fits[0]:
            raise torch.OutOfMemoryError
        return len(part)

    def sizes(count: int) -> list[int]:
        return [len(part) for part, _ in batches(range(count), lambda left: memory.limit, compute, memory)]

    assert sizes(64) == [16, 16, 16, 16]
    assert memory.limit == 16
    fits[0] = 64
    assert sizes(16 * 4) == [16] * 4
    assert memory.limit == 32  # eight in a row went well
    sizes(32 * 8)
    assert memory.limit == 64
    sizes(64 * 20)
    assert memory.limit == 64


def test_without_a_result_of_its_own_an_item_that_does_not_fit_is_the_callers_trouble() -> None:
    memory = Memory(100)

    def compute(part) -> int:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError, match="one item alone"):
        list(batches([1, 2, 3, 4], len, compute, memory))
    assert memory.limit == 100


def test_other_errors_pass_through() -> None:
    def compute(part) -> int:
        raise ValueError("not memory")

    with pytest.raises(ValueError, match="not memory"):
        list(batches([1, 2], len, compute, Memory(10)))


def test_the_tensors_of_a_failed_attempt_are_gone_before_the_next() -> None:
    """An exception keeps its frames' tensors: it must not live on while the smaller batch is computed."""
    import weakref

    seen: list[weakref.ref] = []

    def compute(part) -> int:
        assert all(ref() is None for ref in seen)
        held = torch.zeros(10)
        seen.append(weakref.ref(held))
        if len(part) > 1:
            raise torch.OutOfMemoryError
        return 0

    assert len(list(batches(range(4), len, compute, Memory(10)))) == 4


def test_what_cannot_be_cut_is_one_line_when_it_does_not_fit(monkeypatch, capsys, tmp_path) -> None:
    """Factoring second moments ends a run once, not every case of it; outside of runs the command says it."""
    assert in_one(lambda: 3, "it") == 3

    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(DeviceError, match="factoring it does not fit the device's memory"):
        in_one(short, "factoring it")
    command = ["smoke", "--model", "world", "--limit", "1", "--out"]
    monkeypatch.setattr(torch.linalg, "cholesky_ex", short)
    assert call(["run", *command, str(tmp_path / "run"), "--methods", "rome", "--only", "table1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "factoring the second moments of layer 1 does not fit" in error
    monkeypatch.setattr("artifact.lm.load.load", short)
    assert call(["trace", "--model", "world", "--prompt", "a b", "--subject", "a"]) == 2
    assert capsys.readouterr().err.startswith("kloc: the device's memory does not suffice")
