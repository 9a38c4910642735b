"""ROME and KN on encoders: loops of their own over transformers' modules, and the published code's golden numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_models import ENCODERS, MASKED, check_table, masked_model

from artifact.editing.edit import row_edits
from artifact.editing.kn import KnEdit, attributions, kn, neurons_above, refined
from artifact.editing.methods import METHODS
from artifact.editing.methods.kn import KnHparams
from artifact.editing.methods.rome import RomeHparams
from artifact.editing.moments.sums import compute_moments
from artifact.editing.protocol import PROTOCOLS
from artifact.editing.rome import RomeEdit, rome
from artifact.errors import EditError, ModelError, SettingError
from artifact.facts.fact import Fact, View, fill
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel, load_folder
from artifact.runs.editors import make_editor, unfit

GOLDEN = Path(__file__).parents[1] / "reference" / "kn_bert"
RELEASED, PLENTY = PROTOCOLS["released"], Memory(10**9)
LAYERS = 3
TEMPLATES = ["{}", "The report said so. {}"]
FACT = Fact(
    0,
    "Marie France",
    "P36",
    "The capital of {} is",
    "Paris",
    "Rome",
    ("The city of Marie France is", "It rained in Marie France, the capital is"),
    (),
    "capital",
    "The relation between {} and Rome is",
    "The relation between {} and Paris is",
    (),
)


@pytest.fixture(scope="module", params=ENCODERS)
def both(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    return masked_model(request.param, LAYERS)


class Loop:
    """ROME on transformers' module, one prompt after the other, unpadded and read at the mask."""

    def __init__(self, model: LanguageModel, module: Any, view: View, hparams: RomeHparams, moments: Any) -> None:
        self.module, self.hparams = module, hparams
        self.tokenizer, self.mask = MASKED[model.name](), model.tokens.mask_id
        family = model.decoder.family
        part = "mlp_down" if hparams.site == "mlp" else "attn_out"
        self.part = module.get_submodule(family.name(part, hparams.layer))
        self.view, self.covariance_MM = view, moments.matrix(model.decoder, hparams.layer)

    def ids(self, template: str) -> tuple[torch.Tensor, int, int]:
        """Ids, the edited token's position and the mask's."""
        text = fill(template, self.view.subject) + f" {self.tokenizer.mask_token}."
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        end = template.index("{}") + len(self.view.subject)
        mask = encoded["input_ids"].index(self.mask)
        last = max(i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end <= b)
        lookup = {"subject_last": last, "last": mask}[self.hparams.fact_token]
        return torch.tensor([encoded["input_ids"]]), lookup, mask

    def said(self, template: str, delta_D: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities at the mask, and the projection's input and output at the edited token."""
        ids_1T, lookup, mask = self.ids(template)
        seen: list[torch.Tensor] = []

        def hook(_: Any, given: Any, output_1TD: torch.Tensor) -> torch.Tensor:
            seen.extend((given[0][0, lookup], output_1TD[0, lookup]))
            if delta_D is None:
                return output_1TD
            return output_1TD.index_put((torch.tensor([0]), torch.tensor([lookup])), output_1TD[0, lookup] + delta_D)

        handle = self.part.register_forward_hook(hook)
        log_V = self.module(ids_1T).logits[0, mask].log_softmax(-1)
        handle.remove()
        return log_V, seen[0].detach(), seen[1].detach()

    def token(self, word: str) -> int:
        first, *others = self.tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][1:]
        assert not others
        return first

    def change(self) -> tuple[torch.Tensor, list[float]]:
        """The change of the projection's weight (D, M), and the loss of every pass."""
        hparams, view = self.hparams, self.view
        asked = [(fill2(t, view.template), view.target) for t in TEMPLATES]
        if view.removal is not None:
            asked += [(fill2(t, view.removal), "None") for t in TEMPLATES]
        _, bare_M, start_D = self.said(view.template, None)
        delta_D = torch.zeros_like(start_D, requires_grad=True)
        optimiser = torch.optim.Adam([delta_D], lr=hparams.v_lr)
        kept_V = self.said("{} is a", None)[0].detach()
        losses = []
        for step in range(hparams.v_num_grad_steps):
            nll = -torch.stack([self.said(t, delta_D)[0][self.token(word)] for t, word in asked]).mean()
            now_V = self.said("{} is a", delta_D)[0]
            kl = hparams.kl_factor * (now_V.exp() * (now_V - kept_V)).sum()
            loss = nll + kl + hparams.v_weight_decay * delta_D.norm() / start_D.norm() ** 2
            losses.append(loss.item())
            if step == hparams.v_num_grad_steps - 1:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            most = hparams.clamp_norm_factor * float(start_D.norm())
            with torch.no_grad():
                delta_D *= min(1.0, most / delta_D.norm().item())
        keyed = [fill2(t, view.removal or view.template) for t in TEMPLATES]
        key_M = torch.stack([self.said(t, None)[1] for t in keyed]).mean(0)
        left_M = torch.linalg.solve(self.covariance_MM.double(), key_M.double())
        left_M = left_M / left_M.norm()
        right_D = delta_D.detach().double() / (bare_M.double() @ left_M)
        return torch.outer(right_D, left_M).float(), losses


def fill2(prefix: str, template: str) -> str:
    return prefix.replace("{}", template, 1)


def settings(**more: Any) -> RomeHparams:
    given: dict[str, Any] = {"layers": (1,), "v_loss_layer": LAYERS - 1, "v_num_grad_steps": 5, "v_weight_decay": 1e-3}
    return RomeHparams(**given | more)


PLACES = [("mlp", "subject_last"), ("attn", "subject_last"), ("mlp", "last")]


@pytest.mark.parametrize("perspective", ["entity", "relation"])
@pytest.mark.parametrize(("site", "token"), PLACES)
def test_rome_equals_a_loop_over_transformers_module(both: Any, perspective: Any, site: Any, token: Any) -> None:
    model, module = both
    texts = [
        model.tokens.whole(model.tokens.ids(text)) for text in ("It rained in Paris.", "The capital is Rome", "so")
    ]
    moments = compute_moments(model, texts, [1], "texts", ridge=0.1, site=site)
    view, hparams = FACT.view(perspective), settings(site=site, fact_token=token)
    (found,) = rome(model, [view], hparams, TEMPLATES, moments, RELEASED, PLENTY)
    assert isinstance(found, RomeEdit), found
    expected_DM, losses = Loop(model, module, view, hparams, moments).change()
    assert found.losses == pytest.approx(losses, rel=1e-4)
    ((name, delta_DM),) = found.edit.tensors(model.decoder).items()
    assert name.endswith("output.dense.weight") and name.startswith(model.decoder.family.blocks)
    assert float((delta_DM - expected_DM).norm() / expected_DM.norm()) < 1e-3
    # With the weight changed, transformers' module says what the optimisation ended with.
    weight = module.get_parameter(name)
    loop = Loop(model, module, view, hparams, moments)
    with torch.no_grad():
        weight += delta_DM
        edited_V = loop.said(view.template, None)[0]
        weight -= delta_DM
        encoded = model.tokens.encode(fill(view.template, view.subject))
        hidden_1TD = model.decoder.embed(model.decoder.words(torch.tensor([encoded.ids])))
        hidden_1TD = model.decoder.blocks(hidden_1TD, edits=row_edits([found.edit], [0]))
        ours_V = model.decoder.logits(hidden_1TD[0, [encoded.read]])[0].log_softmax(-1)
    torch.testing.assert_close(ours_V, edited_V, rtol=1e-4, atol=1e-4)


def test_many_layers_and_views_together_are_each_alone(both: Any) -> None:
    model, _ = both
    texts = [model.tokens.whole(model.tokens.ids("It rained in Paris. The capital is Rome"))]
    moments = compute_moments(model, texts, range(LAYERS), "texts", ridge=0.1)
    views = [FACT.view(perspective) for perspective in ("entity", "relation") for _ in range(LAYERS)]
    layers = [*range(LAYERS)] * 2
    together = rome(model, views, settings(), TEMPLATES, moments, RELEASED, PLENTY, layers=layers)
    for view, layer, one in zip(views, layers, together, strict=True):
        (alone,) = rome(model, [view], settings(layers=(layer,)), TEMPLATES, moments, RELEASED, PLENTY)
        if layer == LAYERS - 1:  # no block is left to carry the subject's token to the mask
            assert isinstance(one, EditError) and isinstance(alone, EditError)
            continue
        assert isinstance(one, RomeEdit) and isinstance(alone, RomeEdit)
        torch.testing.assert_close(one.right_D, alone.right_D, rtol=1e-3, atol=1e-4)


def test_kn_attributes_by_the_same_gradients_as_hooks(both: Any) -> None:
    """Prompts of other lengths together, one of them with its mask in the middle."""
    model, module = both
    family, steps = model.decoder.family, 4
    mask = MASKED[model.name]().mask_token
    prompts = ["The capital of France is", "The report said that the capital of Japan is", f"The {mask} of Japan"]
    (target,) = model.tokens.continuation(" Paris")
    for memory in (PLENTY, Memory(1)):
        found = attributions(model, prompts, [[target]] * 3, steps, memory)
        for prompt, found_LM in zip(prompts, found, strict=True):
            encoded = model.tokens.encode(prompt)
            for layer in range(LAYERS):
                part = module.get_submodule(family.name("mlp_up", layer).rpartition(".")[0])  # with its activation
                clean: list[torch.Tensor] = []

                def keep(_: Any, __: Any, output: torch.Tensor, clean: Any = clean, at: int = encoded.read) -> None:
                    clean.append(output[0, at].detach())

                handle = part.register_forward_hook(keep)
                module(torch.tensor([encoded.ids]))
                handle.remove()
                total = torch.zeros_like(clean[0])
                for k in range(steps):
                    point = (clean[0] * k / (steps - 1)).requires_grad_()

                    def put(_: Any, __: Any, output: torch.Tensor, point: Any = point, at: int = encoded.read) -> Any:
                        return output.index_put((torch.tensor([0]), torch.tensor([at])), point)

                    handle = part.register_forward_hook(put)
                    said = module(torch.tensor([encoded.ids])).logits[0, encoded.read].softmax(-1)[target]
                    handle.remove()
                    total += torch.autograd.grad(said, point)[0]
                torch.testing.assert_close(found_LM[layer], clean[0] * total / steps, rtol=1e-3, atol=1e-7)


@pytest.fixture(scope="module")
def tiny_bert() -> LanguageModel:
    return load_folder(GOLDEN / "tiny-bert")


def pairs(array_N2: np.ndarray) -> list[tuple[int, int]]:
    return [(layer, index) for layer, index in array_N2.tolist()]


def test_golden_neurons_of_an_encoder(tiny_bert: LanguageModel) -> None:
    expected = np.load(GOLDEN / "case0.npz")
    case = json.loads((GOLDEN / "index.json").read_text())["case0"]
    prompts = [case["prompt"], *case["paraphrases"]]
    encoded = tiny_bert.tokens.encode(prompts[0])
    assert encoded.ids == tuple(expected["input_ids"].flatten().tolist())
    assert encoded.mask == int(expected["mask_position"])
    target = int(expected["target_id"])
    assert tiny_bert.tokens.continuation(" Paris") == [target]
    found = attributions(tiny_bert, prompts, [[target]] * 3, 20, PLENTY)
    for scores, name in zip(found, ("scores", "scores_paraphrase0", "scores_paraphrase1"), strict=True):
        np.testing.assert_allclose(scores, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())
    coarse = [neurons_above(scores_LM, 0.2) for scores_LM in found]
    assert coarse[0] == pairs(expected["coarse_adaptive0.2"])
    assert neurons_above(found[0], 0.3) == pairs(expected["coarse_adaptive0.3"])
    for p in ("0.3", "0.5", "0.7"):
        assert refined(coarse, float(p)) == pairs(expected[f"refined_3prompts_p{p}"])


def test_golden_edit_of_an_encoder(tiny_bert: LanguageModel) -> None:
    """The published code writes to the first 20 neurons; those of a higher threshold are written to here as there."""
    expected = np.load(GOLDEN / "case0.npz")
    case = json.loads((GOLDEN / "index.json").read_text())["case0"]
    view = View("entity", "France", "The capital of {} is [MASK]", " Rome", " Paris", None, (), (), ())
    (found,) = kn(tiny_bert, [view], KnHparams(), RELEASED)
    assert isinstance(found, KnEdit)
    used = set(pairs(expected["used_neurons"]))
    assert used <= set(found.neurons)
    for name, delta_DM in found.edit.tensors(tiny_bert.decoder).items():
        layer = int(name.split(".")[3])
        columns = [index for at, index in used if at == layer]
        edited_DM = tiny_bert.decoder.weights[name][:, columns] + delta_DM[:, columns]
        if columns:
            np.testing.assert_allclose(edited_DM, expected[f"edited.{name}"][:, columns], rtol=0, atol=1e-6)
    with torch.no_grad():
        encoded = tiny_bert.tokens.encode(case["prompt"])
        decoder = tiny_bert.decoder
        hidden_1TD = decoder.blocks(decoder.embed(decoder.words(torch.tensor([encoded.ids]))))
        logits_V = decoder.logits(hidden_1TD[0, [encoded.read]])[0]
    np.testing.assert_allclose(logits_V, expected["mask_logits"].flatten(), rtol=0, atol=1e-4)


def test_what_edits_no_encoder_says_so(both: Any) -> None:
    model, _ = both
    for name, method in METHODS.items():
        if not method.encoders:
            says = f"edits decoders, and {model.name} is an encoder; give a decoder, or KN or ROME"
            assert says in unfit(model.kind, method)
            with pytest.raises(SettingError, match=says):
                make_editor(model, name, RELEASED, PLENTY)
    editor = make_editor(model, "rome", RELEASED, PLENTY, hparams=settings())
    assert editor.prefixes == ["{}"] and "of Python" in editor.moments.source
    with pytest.raises(ModelError, match="drawing a text needs a decoder"):
        from artifact.editing.prefixes import draw_prefixes

        draw_prefixes(model, [(5, 2)])


def test_the_table_of_the_document() -> None:
    does = dict.fromkeys(("logits", "any layer", "changed weight", "trace", "ROME", "KN"), "yes")
    check_table({(family, feature): word for family in ENCODERS for feature, word in does.items()})
    check_table({(family, feature): "no" for family in ENCODERS for feature in ("MEMIT", "FT", "MEND")})
