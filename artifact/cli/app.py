"""What all commands share: the app they hang on, the parameters that mean the same everywhere, and small services.

Holds no command. Imports that load torch happen inside the functions that need it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from artifact import __version__
from artifact.errors import RunError

app = App(
    name="kloc",
    version=__version__,
    help="Re-run, measure and judge 'Does Knowledge Localization Hold True?' (CIKM 2024).",
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

ProtocolName = Literal["released", "corrected"]
Model = Annotated[str, Parameter(help="world, gpt2, gpt2-xl, gpt-j, smollm2, or the folder of a transformers model.")]
RunModel = Annotated[
    str,
    Parameter(
        help="auto (the plan's own; for smoke GPT-2 small if it can be had, else the embedded world), a name, or "
        "a folder."
    ),
]
Protocol = Annotated[ProtocolName, Parameter(help="Follow the released code's behaviour, or mend its defects.")]
Device = Annotated[str | None, Parameter(help="cpu, cuda, or one GPU such as cuda:1 (default: a GPU, else the CPU).")]
Correct = Annotated[
    list[str],
    Parameter(
        negative="",
        help="Correct these defects alone and follow the released code in the rest: switches of docs/protocol.md, such "
        "as kn_undone,mend_steps_swapped.",
    ),
]
Out = Annotated[Path | None, Parameter(help="Run folder; results/PLAN-MODEL unless said.")]
Memory = Annotated[str | None, Parameter(help="Most memory of a batch, such as 8GB; from the device unless said.")]
Limit = Annotated[int | None, Parameter(help="At most this many facts in every unit.")]


def words(texts: Sequence[str]) -> list[str]:
    """Names given one by one or with commas between."""
    return [word for text in texts for word in text.split(",") if word]


def memory_budget(asked: str | None, device: str) -> Any:
    """The memory budget asked for, or the device's own."""
    import torch

    from artifact.lm.device import Memory, default_memory, parse_bytes

    limit = default_memory(torch.device(device)) if asked is None else parse_bytes(asked)
    return Memory(limit, lambda line: print(line, file=sys.stderr))


def load_model(model: str, device: str | None = None) -> Any:
    """The model, on the device asked for or the one that is chosen (lm/device.py)."""
    from artifact.lm.device import choose_device
    from artifact.lm.load import load

    loaded = load(model, choose_device(device)[0])
    for line in loaded.tokens.notes:
        print(line, file=sys.stderr)
    return loaded


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        check_folder(path)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_folder(path: Path) -> None:
    """Make the folder of a file that is to be written; RunError when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name a file in a folder you own") from None
