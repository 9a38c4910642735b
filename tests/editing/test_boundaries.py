"""At the very edge: a loss exactly at the floor goes on, one below it stops; as the published loops do."""

import math

import pytest

from artifact.editing import ft as ft_module
from artifact.editing import value
from artifact.editing.edit import Edited
from artifact.editing.ft import ft
from artifact.editing.kn import neurons_above, refined
from artifact.editing.methods.ft import FtHparams
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.files import Moments
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import RomeEdit, rome
from artifact.errors import EditError

RELEASED = PROTOCOLS["released"]


def test_ft_goes_on_at_its_floor(tiny, facts, monkeypatch: pytest.MonkeyPatch) -> None:
    model, hparams = tiny("tiny-gpt2"), FtHparams(layers=(1,), num_steps=2, norm_constraint=None)
    view = facts[0].view("entity")
    (found,) = ft(model, [[view]], hparams, RELEASED)
    assert isinstance(found, Edited) and len(found.losses) == 2
    monkeypatch.setattr(ft_module, "LOSS_FLOOR", found.losses[0])
    (at,) = ft(model, [[view]], hparams, RELEASED)
    assert isinstance(at, Edited) and at.losses == found.losses
    monkeypatch.setattr(ft_module, "LOSS_FLOOR", math.nextafter(found.losses[0], math.inf))
    (below,) = ft(model, [[view]], hparams, RELEASED)
    assert isinstance(below, EditError) and "the loss was already below" in str(below)


def test_rome_goes_on_at_its_floor(tiny, facts, monkeypatch: pytest.MonkeyPatch) -> None:
    model, view = tiny("tiny-gpt2"), facts[0].view("entity")

    def edited(steps: int) -> RomeEdit | EditError:
        hparams = RomeHparams(layers=(2,), v_loss_layer=5, v_num_grad_steps=steps, mom2_adjustment=False)
        (found,) = rome(model, [view], hparams, ["{}"], Moments("none"), RELEASED)
        return found

    found = edited(3)
    assert isinstance(found, RomeEdit) and len(found.history) == 3
    first = found.history[0][0]
    monkeypatch.setattr(value, "STOP_LOSS", first)
    at, none = edited(3), edited(1)
    assert isinstance(at, RomeEdit) and len(at.history) >= 2
    assert isinstance(none, EditError) and "no step was taken" in str(none)
    monkeypatch.setattr(value, "STOP_LOSS", math.nextafter(first, math.inf))
    below = edited(3)
    assert isinstance(below, EditError) and "the model already says so" in str(below)


def test_kn_takes_what_is_above_its_thresholds(model) -> None:
    scores_LM = model.decoder.embedding_VD.new_tensor([[1.0, 0.5], [0.25, 0.75]])
    assert neurons_above(scores_LM, 0.5) == [(0, 0), (1, 1)]
    assert neurons_above(scores_LM, 0.25) == [(0, 0), (0, 1), (1, 1)]
    assert refined([[(0, 0)], [(0, 0), (1, 1)]], 0.5) == [(0, 0)]
