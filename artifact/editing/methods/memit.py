"""MEMIT: hyperparameters, needs and work. editing/memit.py makes the edits."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from artifact.editing.hparams import Clamp, Layer, ValueHparams, says
from artifact.editing.method import Default, Groups, Method, value_work
from artifact.editing.methods.rome import METHOD as ROME
from artifact.facts.fact import Perspective
from artifact.facts.lengths import Lengths
from artifact.lm.work import Efficiency, Shape, Work, blocks

if TYPE_CHECKING:
    from artifact.editing.method import Editor, History, Made


_PREFIXES, _REMOVALS = 6, 6
"""Prefixed prompts of an edit, and removal prompts of a relation edit."""


class MemitHparams(ValueHparams, frozen=True, kw_only=True):
    """MEMIT's hyperparameters under their published names."""

    layers: Annotated[
        tuple[Layer, ...], says("Layers whose down-projections share the change, lowest first.", min_length=1)
    ]
    mom2_update_weight: Annotated[
        float, says("lambda: how much the second moments weigh against the new keys.", gt=0, le=1e15)
    ] = 20000.0
    clamp_norm_factor: Clamp = 0.75
    mom2_adjustment: Annotated[Literal[True], says("The second moments are always part of the solve.")] = True


def _scaled(layers: int) -> MemitHparams:
    last, count = min(layers - 1, round(17 / 48 * layers)), max(1, round(5 / 48 * layers))
    return MemitHparams(layers=tuple(range(max(0, last - count + 1), last + 1)), v_loss_layer=layers - 1)


def _grid(layers: int) -> dict[str, list[Any]]:
    """Weights of the second moments and clamps, then windows of the published width that end at parts of the depth."""
    count, ends = max(1, round(5 / 48 * layers)), [round(part * (layers - 1)) for part in (1 / 4, 1 / 2)]
    windows = [list(range(max(0, end - count + 1), end + 1)) for end in ends]
    return {"mom2_update_weight": [20000.0, 1000.0, 100.0], "clamp_norm_factor": [0.75, 4.0], "layers": windows}


def _edits(editor: "Editor", groups: Groups, history: "History | None") -> "Made":
    from artifact.editing.memit import memit

    assert editor.moments is not None
    return memit(editor.model, groups, editor.hparams, editor.prefixes, editor.moments, editor.protocol, editor.memory)


def _work(shape: Shape, hparams: MemitHparams, lengths: Lengths, perspective: Perspective) -> Work:
    """The value optimisation at the last layer, then keys layer by layer; a relation edit adds six removal prompts."""
    removals = _REMOVALS if perspective == "relation" else 0
    prompt, first, last = lengths.prompts[perspective], hparams.layers[0], hparams.layers[-1]
    width = lengths.prefix + prompt.before + 1
    # Prefixed and bare rows up to the last layer, and the bare one from every layer on to the last.
    keys = blocks(shape, last + 1, (_PREFIXES + 1) * width, width)
    again = blocks(shape, (last - first + 1) + sum(last - layer for layer in hparams.layers), width, width)
    return keys + again + value_work(shape, last, hparams.v_num_grad_steps, _PREFIXES + removals, lengths, prompt)


def _layers_of(first: int, last: int, loss_layer: int, **more: Any) -> Default:
    """Settings that were published for a model, the others as for GPT-2 XL."""
    layers = tuple(range(first, last + 1))
    hparams = MemitHparams(layers=layers, v_loss_layer=loss_layer, **more)
    words = " and ".join(["layers", *sorted(more)])
    return Default(hparams, f"{words} published for this model, the rest GPT-2 XL's")


_LLAMA_3 = _layers_of(4, 8, 31, v_lr=0.1, v_num_grad_steps=25, mom2_update_weight=15000.0)
_QWEN_25 = _layers_of(4, 8, 27, v_lr=0.5, v_weight_decay=1e-3, clamp_norm_factor=4.0)
_PUBLISHED_ELSEWHERE = {
    "EleutherAI/gpt-neox-20b": _layers_of(6, 10, 43),
    "meta-llama/Llama-2-7b-hf": _layers_of(4, 8, 31),
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_3,
    "Qwen/Qwen2.5-7B": _QWEN_25,
    "Qwen/Qwen2.5-7B-Instruct": _QWEN_25,
}
"""By the hub's names."""

METHOD = Method(
    name="memit",
    printed="MEMIT",
    defaults={
        **_PUBLISHED_ELSEWHERE,
        "gpt2-xl": Default(MemitHparams(layers=(13, 14, 15, 16, 17), v_loss_layer=47)),
        "gpt-j": Default(
            MemitHparams(layers=(3, 4, 5, 6, 7, 8), v_loss_layer=27, v_num_grad_steps=25, mom2_update_weight=15000.0)
        ),
        "world": Default(
            MemitHparams(
                layers=(0, 1),
                v_loss_layer=5,
                mom2_update_weight=50.0,
                v_num_grad_steps=30,
                v_lr=0.3,
                v_weight_decay=5e-4,
                clamp_norm_factor=8.0,
            ),
            "chosen on the embedded world, no paper values",
        ),
    },
    scaled=_scaled,
    grid=_grid,
    edits=_edits,
    switches={
        "entity": ROME.switches["entity"],
        "relation": (*ROME.switches["relation"], "memit_all_removal_prefixes"),
    },
    joint=True,
    moments=True,
    spreads=True,
    sites=True,
    prefixes="groups",
    batch=32,
    smoke_batch=8,
    work=_work,
    efficiency=Efficiency(0.41, "from 2.36 s a fact measured", 0.35),
    steps="v_num_grad_steps",
    stops={"entity": 18.5 / 20, "relation": 20 / 20},
    value_rows=_PREFIXES + _REMOVALS + 1,  # and the prompt that is kept
    loop="artifact.bench.loops:memit_loop",
)
AS_MEMIT: dict[str, Any] = {
    **dict.fromkeys(("joint", "moments"), True),
    **{name: getattr(METHOD, name) for name in ("prefixes", "batch", "work", "steps", "value_rows")},
    "efficiency": Efficiency(0.41, "as MEMIT", 0.35),
}
"""What methods share with MEMIT that optimise their values and spread them as it does."""
