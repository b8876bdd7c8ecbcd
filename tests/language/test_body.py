"""BERT from a folder: transformers' own outputs, padding, what is missing or left out, files without paths."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

import weightspace as ws
from tests.language import tiny
from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.models.bert import BERT

IDS = torch.tensor([[2, 5, 6, 7, 8, 9, 3, 0, 0], [2, 10, 11, 12, 13, 14, 15, 16, 3], [2, 20, 3, 0, 0, 0, 0, 0, 0]])


def encoder(folder: Path) -> BERT:
    module = BERT(**tiny.SIZES)
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if k in module.state_dict()}
    module.load_state_dict(state)
    return module.eval()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_outputs_are_those_of_transformers(body: Path, activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**tiny.CONFIG | {"hidden_act": activation}, attn_implementation="eager")
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    own = BERT(**tiny.SIZES, activation=activation).eval()
    own.load_state_dict(encoder(body).state_dict())
    theirs.load_state_dict(own.state_dict(), strict=False)
    with torch.no_grad():
        expected = theirs(input_ids=IDS, attention_mask=(IDS != 0).long()).last_hidden_state
        found = own(IDS)
        unmasked = theirs(input_ids=IDS).last_hidden_state
    real = IDS != 0
    assert (found - expected)[real].abs().max() < 2e-6
    assert (found - unmasked)[real].abs().max() > 1e-3  # the mask does something


def test_padding_does_not_change_outputs(body: Path, task: ws.Task) -> None:
    networks = ws.language.pretrained(task, 1)
    module = networks.module(0).eval()
    short = IDS[:1, :7]
    assert torch.allclose(module(IDS[:1]), module(short), atol=1e-6)
    padded = torch.nn.functional.pad(short, (0, 5))
    assert torch.allclose(module(padded), module(short), atol=1e-6)
    assert not torch.allclose(module(IDS[:1].clamp(min=1)), module(short), atol=1e-3)  # other tokens would


def test_networks_run_side_by_side_under_masks_of_their_own() -> None:
    modules = [BERT(**tiny.SIZES).eval() for _ in range(3)]
    parameters, buffers = stack_module_state(modules)

    def run(own: dict[str, Tensor], rest: dict[str, Tensor], ids: Tensor) -> Tensor:
        return functional_call(modules[0], (own, rest), (ids,))

    rolled = torch.stack([IDS, IDS.roll(1, 0), IDS.roll(2, 0)])
    together = vmap(run)(parameters, buffers, rolled)
    for module, ids, found in zip(modules, rolled, together, strict=True):
        assert torch.allclose(module(ids), found, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_untrained_networks_begin_at_the_file_and_draw_their_heads(body: Path, layers: int) -> None:
    architecture = ws.language.bert(body, ws.language.ClassHead(3), layers=layers)
    first, again, other = (architecture.initial_seeded(seed).state_dict() for seed in (1, 1, 2))
    stored = load_file(body / "model.safetensors")
    for name, tensor in first.items():
        if name.startswith("head."):
            continue
        assert torch.equal(tensor, stored[name])
    assert sum(name.startswith("encoder.") for name in first) == 16 * layers
    assert torch.equal(first["head.weight"], again["head.weight"])
    assert not torch.equal(first["head.weight"], other["head.weight"])
    drawn = replace(architecture, pretrained=None).initial_seeded(1).state_dict()
    assert not torch.equal(drawn["encoder.layer.0.output.dense.weight"], first["encoder.layer.0.output.dense.weight"])


def test_frozen_embeddings_are_no_part_of_the_vector(body: Path) -> None:
    whole, frozen = (ws.language.bert(body, train_embeddings=part) for part in (True, False))
    assert frozen.layout().size == whole.layout().size - (22 + 12 + 2 + 2) * 16
    assert not any(entry.name.startswith("embeddings") for entry in frozen.layout().parameters)
    x = IDS
    assert torch.equal(whole.initial_seeded(0).eval()(x), frozen.initial_seeded(0).eval()(x))


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_names_with_and_without_a_prefix_are_read(body: Path, tmp_path: Path, prefix: str) -> None:
    folder = tiny.write(tmp_path / "other", prefix=prefix)
    found = ws.language.bert(folder).initial_seeded(0)(IDS)
    assert torch.equal(found, ws.language.bert(body).initial_seeded(0)(IDS))


def test_a_word_head_comes_from_the_file_or_begins_as_the_identity(body: Path, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "head", head=True)
    places = torch.tensor([[1, 2], [3, 4], [1, 0]])
    own = ws.language.bert(folder, ws.language.WordHead()).initial_seeded(0).eval()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**tiny.CONFIG)).eval()
    state = load_file(folder / "model.safetensors")
    named = {k if k.startswith("cls.") else f"bert.{k}": v for k, v in state.items() if "position_ids" not in k}
    theirs.load_state_dict(named | {"cls.predictions.decoder.bias": named["cls.predictions.bias"]}, strict=False)
    with torch.no_grad():
        expected = theirs(input_ids=IDS, attention_mask=(IDS != 0).long()).logits
        found = own(IDS, places)
    assert torch.allclose(found, expected.gather(1, places[..., None].expand(-1, -1, 22)), atol=1e-4)
    fresh = ws.language.bert(body, ws.language.WordHead()).initial_seeded(0)
    assert torch.equal(fresh.state_dict()["head.dense.weight"], torch.eye(16))
    untied = ws.language.bert(body, ws.language.WordHead(tied=False))
    assert torch.equal(untied.initial_seeded(0).eval()(IDS, places), fresh.eval()(IDS, places))
    assert untied.layout().size == ws.language.bert(body, ws.language.WordHead()).layout().size + 22 * 16


def test_what_is_left_out_of_a_file_is_said(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "pooled", pooler=True, head=True)
    with pytest.warns(UserWarning, match=r"left out of model\.safetensors.*: cls \(5 tensors\), pooler \(2 tensors\)"):
        ws.language.bert(folder)
    with pytest.warns(UserWarning, match=r"no such parts: pooler \(2 tensors\)$"):
        ws.language.bert(folder, ws.language.WordHead(), layers=1)


def test_a_folder_that_is_no_bert_is_refused_by_name(body: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    with pytest.raises(StorageError, match=r"no config\.json \(the folder does not exist\)"):
        ws.language.bert(folder)
    shutil.copytree(body, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(StorageError, match=r"no model\.safetensors.*pickled pytorch_model\.bin is not read"):
        ws.language.bert(folder)
    with pytest.raises(InputError, match="layers must be a whole number from 1 to 2"):
        ws.language.bert(body, layers=3)
    for change, message in (
        ({"model_type": "roberta"}, "model_type = 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"hidden_act": "silu"}, "hidden_act = 'silu'"),
        ({"hidden_size": None}, "lacks hidden_size"),
    ):
        shutil.copytree(body, folder, dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps(tiny.CONFIG | change))
        with pytest.raises(InputError, match=message):
            ws.language.bert(folder)
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG | {"vocab_size": 23}))
    with pytest.raises(LayoutMismatch, match=r"word_embeddings\.weight of shape \(22, 16\)"):
        ws.language.bert(folder)
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    state = load_file(body / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(LayoutMismatch, match=r"lacks encoder\.layer\.1\.output\.dense\.bias"):
        ws.language.bert(folder)
    ws.language.bert(folder, layers=1)  # which is all there
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(StorageError, match="cannot be read as a safetensors file"):
        ws.language.bert(folder)


def test_models_of_transformers_are_factories_that_begin_at_their_folder(body: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    build = ws.language.from_transformers(body, settings={"num_labels": 3})
    architecture = ws.Architecture.of(build)
    first, again = architecture.build_seeded(5), architecture.build_seeded(5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first.eval()(IDS).shape == (3, 3)
    stored = load_file(body / "model.safetensors")["encoder.layer.0.output.dense.weight"]
    assert torch.equal(first.state_dict()["model.bert.encoder.layer.0.output.dense.weight"], stored)
    assert torch.allclose(first(IDS[:1]), first(IDS[:1, :7]), atol=1e-6)  # padding is masked
    with pytest.raises(StorageError, match=r"no config\.json"):
        ws.language.from_transformers(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no class 'Nothing'"):
        ws.language.from_transformers(body, "Nothing")
