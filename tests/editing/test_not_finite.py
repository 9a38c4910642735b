"""A loss or score that is not a number is an error of its case: in every method, in scoring and in tracing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifact.editing.edit import Dense, Edit, Edited, checked_norm
from artifact.editing.ft import ft
from artifact.editing.kn import kn
from artifact.editing.memit import memit
from artifact.editing.mend import mend
from artifact.editing.mend_history import History
from artifact.editing.mend_weights import read_network
from artifact.editing.methods import METHODS
from artifact.editing.methods.kn import KnHparams
from artifact.editing.methods.mend import MendHparams
from artifact.editing.moments.files import Moments, read_moments
from artifact.editing.moments.sums import KeySums, compute_moments, write_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import rome
from artifact.errors import EditError, PromptError, SettingError
from artifact.evaluation.score import score_cases
from artifact.facts.fact import Statement
from artifact.lm.load import LanguageModel, load_folder
from artifact.tracing.trace import TraceSettings, greedy_answers, trace_all

REFERENCE = Path(__file__).parents[1] / "reference"
RELEASED, CORRECTED = PROTOCOLS["released"], PROTOCOLS["corrected"]
STATEMENT = Statement(7, "The capital of France is", "France")


@pytest.fixture(scope="module")
def broken() -> LanguageModel:
    """A model whose states are finite and whose logits are not."""
    model = load_folder(REFERENCE / "models" / "tiny-gpt2")
    model.decoder.weights["transformer.ln_f.weight"][0] = float("nan")
    return model


def edits(method: str, model: LanguageModel, views: list) -> list:
    hparams, groups = METHODS[method].hparams_for("tiny-gpt2", 4), [[view] for view in views]
    moments = read_moments(REFERENCE / "moments" / "tiny-gpt2")
    if method == "ft":
        return ft(model, groups, hparams, RELEASED)
    if method == "kn":
        return kn(model, views, KnHparams(steps=3), RELEASED)
    if method == "mend":
        network = read_network(REFERENCE / "mend" / "mend_network.npz")
        return mend(model, groups, MendHparams(layers=(1, 2, 3)), network, CORRECTED)
    if method == "rome":
        return rome(model, views, hparams, ["{}"], moments, RELEASED)
    return memit(model, groups, hparams, [["{}"]], moments, RELEASED)


@pytest.mark.parametrize("method", ["ft", "kn", "mend", "rome", "memit"])
def test_a_loss_that_is_no_number_is_an_error_of_its_case(method, broken, facts) -> None:
    found = edits(method, broken, [facts[0].view("entity"), facts[10].view("entity")])
    assert [type(one) for one in found] == [EditError, EditError]
    assert all("finite" in str(one) for one in found)


def test_rows_that_are_no_numbers_do_not_enter_mends_history(broken, tiny, facts) -> None:
    """As released, later edits are normalised with the rows of those before them."""
    network, hparams = read_network(REFERENCE / "mend" / "mend_network.npz"), MendHparams(layers=(1, 2, 3))
    groups = [[facts[0].view("entity")]]
    history, fresh = History(), History()
    (failed,) = mend(broken, groups, hparams, network, RELEASED, history)
    assert isinstance(failed, EditError)
    (after,), (alone,) = (mend(tiny("tiny-gpt2"), groups, hparams, network, RELEASED, one) for one in (history, fresh))
    assert isinstance(after, Edited) and isinstance(alone, Edited) and after.norm == alone.norm


def test_one_loss_on_the_way_is_enough() -> None:
    edit = Edit({"a": Dense(torch.ones(2, 2))})
    assert checked_norm(edit, [1.0, 0.5]) == 2.0
    for losses in ([math.nan, 0.5], [1.0, math.inf]):
        with pytest.raises(EditError, match="the loss of pass"):
            checked_norm(edit, losses)


def test_scores_that_are_no_numbers_name_their_case(tiny, broken, facts) -> None:
    model, name = tiny("tiny-gpt2"), "transformer.h.1.mlp.c_proj"
    small, huge = (Edit({name: Dense(torch.full((256, 64), value))}) for value in (1e-3, 1e38))
    assert len(score_cases(model, [facts[0], facts[10]], [small, small])) == 2
    with pytest.raises(EditError, match=f"case {facts[10].case_id}: the loss of a text under its edit is nan"):
        score_cases(model, [facts[0], facts[10]], [small, huge])
    with pytest.raises(EditError, match="under the model"):
        score_cases(broken, [facts[0]])


def test_traces_that_are_no_numbers_name_their_case(broken) -> None:
    (said,) = greedy_answers(broken, [STATEMENT])
    assert isinstance(said, PromptError) and "case 7" in str(said) and "not finite" in str(said)
    (found,) = trace_all(broken, [STATEMENT], TraceSettings(0.1, samples=2))
    assert isinstance(found, PromptError) and "case 7" in str(found)


@pytest.mark.parametrize("level", [1e300, 1e38, 1e20, 1e19])
def test_noise_beyond_the_type_is_refused(level, tiny) -> None:
    """Also where its square is: a layer norm would make zeros of it without a word."""
    with pytest.raises(SettingError, match="beyond what float32 holds"):
        trace_all(tiny("tiny-gpt2"), [STATEMENT], TraceSettings(level, samples=2))


def test_noise_beyond_a_narrower_type(tiny) -> None:
    model = load_folder(REFERENCE / "models" / "tiny-gpt2", dtype=torch.float16)
    with pytest.raises(SettingError, match="beyond what float16 holds; give at most 7e"):
        trace_all(model, [STATEMENT], TraceSettings(1e4, samples=2))
    (found,) = trace_all(tiny("tiny-gpt2"), [STATEMENT], TraceSettings(1e4, samples=2))
    assert not isinstance(found, Exception)


def test_moments_that_are_no_numbers_are_never_written(tiny, tmp_path) -> None:
    model = tiny("tiny-gpt2")
    nan = load_folder(REFERENCE / "models" / "tiny-gpt2")
    nan.decoder.weights["transformer.h.2.mlp.c_fc.weight"][0, 0] = float("nan")
    texts = [model.tokens.ids("The capital of France is Paris")]
    with pytest.raises(SettingError, match="second moments of layer 2 are not finite"):
        compute_moments(nan, texts, [1, 2], "texts")
    sums = KeySums(model, (1, 2))
    sums.add(texts)
    sums.totals_MM[2] += 1e39  # finite in float64, infinite in the file's float32
    with pytest.raises(SettingError, match="layer 2 are not finite in float32"):
        write_moments(tmp_path / "out", model, sums, 1)
    assert not (tmp_path / "out").exists()


def test_given_moments_that_are_no_numbers(tiny) -> None:
    decoder = tiny("tiny-gpt2").decoder
    for value in (math.nan, math.inf):
        matrix_MM = torch.eye(256)
        matrix_MM[3, 3] = value
        with pytest.raises(SettingError, match="the matrix of layer 2 is not finite"):
            Moments("made", given_MM={2: matrix_MM}).solve(decoder, 2, torch.ones(1, 256))


def test_a_training_that_leaves_the_numbers_is_refused(broken, facts) -> None:
    from artifact.editing.mend_train import MendTraining, train

    training = MendTraining(steps=4, batch=4, rank=4, check_every=2, check_views=4, variants=1, validation=0.25)
    with pytest.raises(EditError, match="diverged"):
        train(replace(broken), [facts[case] for case in range(8)], MendHparams(layers=(2, 3)), training)
