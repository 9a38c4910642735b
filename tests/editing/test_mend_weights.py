"""MEND's weight files: published pickles read without running them, our own files, and what is refused."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from artifact.editing.mend import Network
from artifact.editing.mend_weights import convert, network_of, read_network, stored, tensors_of, write_network
from artifact.errors import RunError, SettingError

REFERENCE = Path(__file__).parent.parent / "reference" / "mend" / "mend_network.npz"


def state_dict(prefix: str = "mend.") -> dict[str, torch.Tensor]:
    """The golden network under the published file's keys: without the [PAD] row, with sums nobody reads."""
    with np.load(REFERENCE) as file:
        tensors = {key: torch.from_numpy(file[key]) for key in file.files if key != "pad_embedding"}
    return {key if key == "edit_lrs" else f"{prefix}{key}": tensor for key, tensor in tensors.items()}


class GPT2Config:
    """Stands for a foreign class, as transformers' configuration in the published files."""

    built: list[object] = []

    def __init__(self) -> None:
        self.n_layer = 6
        self.torch_dtype = torch.float32

    def __setstate__(self, state: dict) -> None:
        self.built.append(state)


class Node(dict):
    """Stands for omegaconf's: rebuilt by a call, and with a state."""

    def __reduce__(self):
        return (Node.make, ("lr", 1e-6), {"parent": None})

    @staticmethod
    def make(*given: object) -> "Node":
        GPT2Config.built.append(given)
        return Node()


def publish(path: Path, state: dict[str, object], **more: object) -> Path:
    content = {"model": {**state, "model_config": GPT2Config()}, "opt": {"state": {0: torch.ones(2)}}, "config": more}
    torch.save(content, path)
    return path


def equal(one: Network, other: Network) -> None:
    ours, theirs = tensors_of(one), tensors_of(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("prefix", ["mend.", "gtn."])
def test_a_published_pickle_is_read_without_running_it(prefix, tmp_path) -> None:
    GPT2Config.built.clear()
    path = publish(
        tmp_path / "m.pt", state_dict(prefix), lrs=[1, Path("x")], val=defaultdict(list, acc=[np.float64(0.5)])
    )
    network = read_network(path)
    assert not GPT2Config.built, "a foreign class was rebuilt"
    assert network.pad_is_mean and network.pad_embedding is None and "m.pt" in network.source
    golden = tensors_of(read_network(REFERENCE))
    found = tensors_of(network)
    assert found.keys() | {"pad_embedding"} == golden.keys()
    assert all(torch.equal(tensor, golden[key]) for key, tensor in found.items())


def test_an_executable_pickle_runs_nothing(tmp_path) -> None:
    """os.system is refused by name; any other function becomes a stand-in and is not called."""
    canary = tmp_path / "canary"

    class Attack:
        def __init__(self, function, *given) -> None:
            self.call = (function, given)

        def __reduce__(self):
            return self.call

    command = f"touch {canary}"
    torch.save({"model": {**state_dict(), "x": Attack(os.system, command)}}, tmp_path / "os.pt")
    with pytest.raises(SettingError, match=r"os.pt: cannot be read as a file .* \(it asks to run \w+.system\)"):
        read_network(tmp_path / "os.pt")
    import subprocess

    torch.save({"model": {**state_dict(), "x": Attack(subprocess.getoutput, command)}}, tmp_path / "sub.pt")
    torch.save({"model": {**state_dict(), "x": Attack(eval, f"open({str(canary)!r}, 'w')")}}, tmp_path / "eval.pt")
    for name in ("sub.pt", "eval.pt"):
        assert len(read_network(tmp_path / name).transforms) == 2
    assert not canary.exists()
    # The same pickle does run when it is trusted: the test would see it.
    torch.load(tmp_path / "sub.pt", weights_only=False)
    assert canary.exists()


def test_damaged_and_foreign_files(tmp_path) -> None:
    good = publish(tmp_path / "good.pt", state_dict()).read_bytes()
    for name, content in (("cut.pt", good[: len(good) // 2]), ("text.pt", b"not weights"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingError, match=f"{name}: cannot be read as a file of torch weights"):
            read_network(tmp_path / name)
    with pytest.raises(SettingError, match="absent.pt"):
        read_network(tmp_path / "absent.pt")
    with pytest.raises(SettingError, match="by its ending"):
        read_network(tmp_path / "m.bin")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SettingError, match='no entry "model"'):
        read_network(tmp_path / "list.pt")
    for ending, reason in ((".npz", "cannot be read as an npz"), (".safetensors", "cannot be read as a safetensors")):
        (tmp_path / f"x{ending}").write_bytes(b"not weights")
        with pytest.raises(SettingError, match=reason):
            read_network(tmp_path / f"x{ending}")
    # An array that claims more than the file has would ask for all of it.
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (10**11,)})
    for content in (b"no array", huge.getvalue()):
        with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
            file.writestr("edit_lrs.npy", content)
        with pytest.raises(SettingError, match="cannot be read as an npz"):
            read_network(tmp_path / "z.npz")
    for ending in (".npz", ".safetensors", ".pt"):
        os.mkfifo(tmp_path / f"pipe{ending}")
        with pytest.raises(SettingError, match="is not a regular file"):
            read_network(tmp_path / f"pipe{ending}")


def test_a_key_of_thousands_of_digits_is_not_a_shape(tmp_path) -> None:
    tensors = {"edit_lrs": torch.ones(6), f"({'9' * 5000}, 4).u_mean": torch.ones(3)}
    save_file(tensors, tmp_path / "n.safetensors")
    np.savez(tmp_path / "n.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    for name in ("n.safetensors", "n.npz"):
        with pytest.raises(SettingError, match="no weight shape such as"):
            read_network(tmp_path / name)


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_a_network_beyond_the_computers_memory_is_one_line(ending, tmp_path, monkeypatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise MemoryError

    path = publish(tmp_path / "n.pt", state_dict()) if ending == "pt" else REFERENCE
    monkeypatch.setattr("artifact.editing.mend_weights.load_tensors", full)
    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(RunError, match=f"{ending}: does not fit the computer's memory"):
        read_network(path)


def test_a_header_that_names_a_tensor_twice_is_refused(tmp_path) -> None:
    """The library takes the last of them without a word."""
    content = save({"edit_lrs": torch.ones(6)})
    size = int.from_bytes(content[:8], "little")
    entry = content[8 : 8 + size].strip()
    header = entry[:-1] + b"," + entry[1:]
    (tmp_path / "n.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    assert list(load_file(tmp_path / "n.safetensors")) == ["edit_lrs"]
    with pytest.raises(SettingError, match="its header names 'edit_lrs' twice"):
        read_network(tmp_path / "n.safetensors")


@pytest.mark.parametrize(
    ("key", "tensor", "says"),
    [
        ("edit_lrs", None, "no edit_lrs"),
        ("mend.(64, 256).mlp.layers.1.bias", None, r"no \(64, 256\).mlp.layers.1.bias"),
        ("mend.(64, 256).u_std", None, r"no \(64, 256\).u_std"),
        ("mend.(64, 256).mlp.layers.0.u", torch.ones(64, 320), r"must be of shape \(320, any\), got \(64, 320\)"),
        ("mend.(64, 256).mlp.layers.0.v", torch.ones(7, 320), r"must be of shape \(320, 320\), got \(7, 320\)"),
        ("mend.(64, 256).v_mean", torch.full((256,), float("nan")), "is not finite"),
        ("mend.(64, 256).v_mean", torch.full((256,), 1e300, dtype=torch.float64), "is not finite"),
        ("mend.(64, 256).v_mean", torch.ones(256, dtype=torch.bool), "v_mean is bool, strided; expected dense"),
        ("mend.(64, 256).v_mean", torch.ones(256, dtype=torch.int64), "v_mean is int64"),
        ("mend.(64, 256).v_mean", torch.ones(256, dtype=torch.complex64), "v_mean is complex64"),
        ("mend.(64, 256).v_mean", torch.ones(256).to_sparse(), "v_mean is float32, sparse_coo"),
        ("mend.(64, 256).v_mean", torch.ones(256, device="meta"), r"v_mean is without numbers \(meta\)"),
        ("mend.(64, 256).v_mean", torch.ones(0), r"must be of shape \(256\), got \(0,\)"),
        ("edit_lrs", torch.ones(6).to_sparse(), "edit_lrs is float32, sparse_coo"),
        ("edit_lrs", torch.ones(2, 3), r"one row of finite numbers, got shape \(2, 3\)"),
    ],
)
def test_an_incomplete_network_is_refused(key, tensor, says, tmp_path) -> None:
    state = state_dict()
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    with pytest.raises(SettingError, match=says):
        read_network(publish(tmp_path / "m.pt", state))


def test_a_file_without_networks_is_refused() -> None:
    with pytest.raises(SettingError, match="no weight shape"):
        network_of({"edit_lrs": torch.ones(6)}, "test")


def test_converted_once(tmp_path) -> None:
    """The safetensors file gives the same network, names the published file's hash, and knows its own tensors."""
    import hashlib

    path = publish(tmp_path / "mend-10tok.pt", state_dict())
    metadata = convert(path, tmp_path / "out" / "m.safetensors")
    assert metadata["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata["pad_row"] == "mean" and len(metadata["tensors_sha256"]) == 64
    again = read_network(tmp_path / "out" / "m.safetensors")
    equal(again, read_network(path))
    assert again.pad_is_mean and "mend-10tok.pt" in again.source
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["m.safetensors"]
    changed = bytearray((tmp_path / "out" / "m.safetensors").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "out" / "m.safetensors").write_bytes(bytes(changed))
    with pytest.raises(SettingError, match="not those it was written with"):
        read_network(tmp_path / "out" / "m.safetensors")


def test_our_own_files(tmp_path) -> None:
    """The [PAD] row comes back as it was; in float16 only the low-rank layers lose precision."""
    network = read_network(REFERENCE)
    write_network(network, tmp_path / "full.safetensors", {"steps": 3})
    equal(read_network(tmp_path / "full.safetensors"), network)
    none = network_of({key: t for key, t in tensors_of(network).items() if key != "pad_embedding"}, "ours")
    metadata = write_network(none, tmp_path / "half.safetensors", {}, torch.float16)
    assert metadata["pad_row"] == "none"
    half = read_network(tmp_path / "half.safetensors")
    assert half.pad_embedding is None and not half.pad_is_mean
    for key, tensor in tensors_of(half).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors_of(network)[key]) == (".mlp." not in key)
    assert all(torch.equal(t.float(), tensors_of(half)[key]) for key, t in stored(none, torch.float16).items())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_network(network, tmp_path / "file" / "m.safetensors", {})


def test_a_file_is_the_same_bytes_each_time(tmp_path) -> None:
    """Also from another process: what is recorded of a converted file is its hash."""
    code = (
        "import sys; from pathlib import Path; from artifact.editing.mend_weights import read_network, write_network\n"
        "write_network(read_network(Path(sys.argv[1])), Path(sys.argv[2]), {'b': 1, 'a': 'é', 'zz': [1, 2]})"
    )
    here, there = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    write_network(read_network(REFERENCE), here, {"zz": [1, 2], "b": 1, "a": "é"})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "3"}
    command = [sys.executable, "-c", code, str(REFERENCE), str(there)]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert here.read_bytes() == there.read_bytes()
    with safe_open(here, framework="pt") as opened:
        assert opened.metadata()["a"] == "é" and json.loads(opened.metadata()["zz"]) == [1, 2]
    equal(read_network(here), read_network(REFERENCE))
