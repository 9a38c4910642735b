"""An edit file is trusted with nothing, and is written whole with the mode of any other output."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from artifact.editing.edit import Dense, Edit, LowRank
from artifact.editing.edit_file import read_edit, write_edit
from artifact.errors import EditError, RunError

NAME = "transformer.h.1.mlp.c_proj"
SHAPE = (256, 64)


def edit_of(value: float) -> Edit:
    return Edit({NAME: Dense(torch.full(SHAPE, value))})


@pytest.mark.parametrize(
    ("delta", "says"),
    [
        (torch.full(SHAPE, 1e300, dtype=torch.float64), "not finite in float32, the model's type"),
        (torch.full(SHAPE, float("inf")), "is not finite; give"),
        (torch.full(SHAPE, 1e-300, dtype=torch.float64), "every entry is zero in float32"),
        (torch.zeros(SHAPE), "every entry is zero"),
        (torch.ones(SHAPE, dtype=torch.bool), "of type bool; expected one of float64"),
        (torch.ones(SHAPE, dtype=torch.int32), "of type int32"),
        (torch.ones(SHAPE, dtype=torch.uint8), "of type uint8"),
        (torch.ones(SHAPE, dtype=torch.complex64), "of type complex64"),
        (torch.ones(SHAPE).to(torch.float8_e4m3fn), "of type float8_e4m3fn"),
        (torch.ones(0, 64), r"of shape \(256, 64\), got \(0, 64\)"),
        (torch.tensor(1.0), r"of shape \(256, 64\), got \(\)"),
    ],
)
def test_numbers_that_are_none_are_refused(delta, says, tiny, tmp_path) -> None:
    save_file({f"{NAME}.weight": delta}, tmp_path / "e.safetensors")
    with pytest.raises(EditError, match=says):
        read_edit(tmp_path / "e.safetensors", tiny("tiny-gpt2"))


def test_a_weight_that_overflows_with_its_change(tiny, tmp_path) -> None:
    model = tiny("tiny-gpt2")
    most = torch.finfo(torch.float32).max
    weight = model.decoder.weights[f"{NAME}.weight"]
    before = weight[0, 0].item()
    weight[0, 0] = most
    try:
        save_file({f"{NAME}.weight": torch.full(SHAPE, most)}, tmp_path / "e.safetensors")
        with pytest.raises(EditError, match="added to the model's weight is not finite in float32"):
            read_edit(tmp_path / "e.safetensors", model)
        with pytest.raises(EditError, match="the weight with its change is not finite"):
            write_edit(tmp_path / "out.safetensors", edit_of(most), model, {})
    finally:
        weight[0, 0] = before
    # Factors that are finite, and a product that is not.
    wide = Edit({NAME: LowRank(torch.full((256, 1), 1e30), torch.full((1, 64), 1e30))})
    with pytest.raises(EditError, match="not finite"):
        write_edit(tmp_path / "out.safetensors", wide, model, {})
    assert not (tmp_path / "out.safetensors").exists()


def with_header(header: bytes, rest: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


def twice() -> bytes:
    content = save({f"{NAME}.weight": torch.ones(SHAPE)})
    size = int.from_bytes(content[:8], "little")
    entry = content[8 : 8 + size].strip()
    return with_header(entry[:-1] + b"," + entry[1:], content[8 + size :])


def aliased() -> bytes:
    """Two names for the same bytes."""
    content = save({f"{NAME}.weight": torch.ones(SHAPE)})
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["transformer.h.2.mlp.c_proj.weight"] = header[f"{NAME}.weight"]
    return with_header(json.dumps(header).encode(), content[8 + size :])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as a safetensors file"),
        (b"not an edit", "cannot be read as a safetensors file"),
        (save({}), "holds no weight change"),
        ((2**62).to_bytes(8, "little") + b"{}", "cut off or too large"),
        (with_header(b"[" * 100_000), "cannot be read as a safetensors file"),
        (with_header(b"\xff\xfe{}"), "cannot be read as a safetensors file"),
        (with_header(b"[]"), "cannot be read as a safetensors file"),
        (with_header(b'{"a":{"dtype":"F999","shape":[1],"data_offsets":[0,4]}}', b"0000"), "cannot be read as"),
        (with_header(b'{"a":{"dtype":"F32","shape":[9999999999,9999999999],"data_offsets":[0,4]}}', b"0000"), "cannot"),
        (twice(), "twice"),
        (aliased(), "cannot be read as a safetensors file"),
        (save({f"{NAME}.weight": torch.ones(SHAPE)})[:-9], "cannot be read as a safetensors file"),
        (save({f"{NAME}.weight\x1b[2J": torch.ones(SHAPE)}), "not a weight of this model's blocks"),
        (save({"h.1.mlp.c_proj.weight": torch.ones(SHAPE)}), "not a weight of this model's blocks"),
        (save({"lm_head.weight": torch.ones(8, 64)}), "not a weight of this model's blocks"),
    ],
)
def test_files_that_are_none_are_one_line(content, says, tiny, tmp_path) -> None:
    (tmp_path / "e.safetensors").write_bytes(content)
    with pytest.raises(EditError, match=says) as caught:
        read_edit(tmp_path / "e.safetensors", tiny("tiny-gpt2"))
    said = str(caught.value)
    assert "\n" not in said and "\x1b" not in said and len(said) < 600


def test_what_is_not_a_regular_file(tiny, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(EditError, match="is not a regular file"):
            read_edit(path, tiny("tiny-gpt2"))


def test_a_file_has_the_mode_of_any_other_and_is_written_whole(tiny, tmp_path, monkeypatch) -> None:
    model, out = tiny("tiny-gpt2"), tmp_path / "made" / "e.safetensors"
    before = os.umask(0o022)
    try:
        write_edit(out, edit_of(1.0), model, {"method": "none"})
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o644
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"method": "none", "weights_sha256": model.weights_sha256}
    content = out.read_bytes()

    def full(self: Path, *given: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="cannot be written"):
        write_edit(out, edit_of(2.0), model, {})
    monkeypatch.undo()
    assert out.read_bytes() == content and list(out.parent.iterdir()) == [out]
