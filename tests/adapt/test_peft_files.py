"""Files of PEFT, both ways; the package itself says what the outputs are."""

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

import weightspace as ws
from tests.adapt.conftest import RECIPE
from weightspace import adapt


@pytest.fixture(scope="module")
def one(base: ws.Collection) -> ws.Collection:
    return ws.starts(base[[0, 0]], seed=0)


def write(one: ws.Collection, folder: Path, **settings: object) -> torch.Tensor:
    """A random adapter that PEFT writes, and what it predicts."""
    settings = {"target_modules": ["encoder.0", "encoder.3"], "modules_to_save": ["head"], **settings}
    config = peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **settings)  # pyright: ignore
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(one.module(0), config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in wrapped.named_buffers():
            if "modules_to_save" in name and buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    wrapped.save_pretrained(str(folder))
    return wrapped.eval()(torch.ones(2, 4)).detach()


@pytest.fixture(scope="module")
def written(one: ws.Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    torch.save(write(one, folder), folder.parent / "outputs.pt")
    return folder


def test_peft_reads_what_we_write(one: ws.Collection, first: ws.Task, tmp_path: Path) -> None:
    adapters = adapt.LoRA(rank=2, alpha=4.0, on="encoder.*", whole="head.*").find(one, first)
    folder = adapt.save_peft(adapters, 1, tmp_path / "adapter")
    x, own = first.test.x, adapters.module(1).eval()
    theirs = peft.PeftModel.from_pretrained(one.module(0), folder).eval()
    # BatchNorm's statistics are not among an adapter's files: those of the base are used.
    own.load_state_dict({k: v for k, v in one.module(0).state_dict().items() if "running" in k}, strict=False)
    assert torch.equal(theirs(x), own(x))
    assert not torch.allclose(theirs(x), one.module(0).eval()(x), atol=1e-3)  # the control
    again = adapt.load_peft(folder, one)
    assert torch.equal(again.weights[0], adapters.weights[1])


def test_we_read_what_peft_writes(one: ws.Collection, written: Path) -> None:
    loaded = adapt.load_peft(written, one)
    expected = torch.load(written.parent / "outputs.pt", weights_only=True)
    torch.testing.assert_close(loaded.module(0).eval()(torch.ones(2, 4)), expected)
    assert not torch.allclose(one.module(0).eval()(torch.ones(2, 4)), expected, atol=1e-3)
    vectors = adapt.task_vectors(loaded, one)
    torch.testing.assert_close(vectors.on(one[:1]).module(0).eval()(torch.ones(2, 4)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"use_rslora": True}, {"modules_to_save": ["encoder.1", "head"]}])
def test_outputs_are_those_of_peft(one: ws.Collection, tmp_path: Path, settings: dict[str, object]) -> None:
    expected = write(one, tmp_path / "adapter", **settings)
    loaded = adapt.load_peft(tmp_path / "adapter", one)
    torch.testing.assert_close(loaded.module(0).eval()(torch.ones(2, 4)), expected)
    plain = write(one, tmp_path / "plain")
    assert not torch.allclose(plain, expected, atol=1e-3)  # the control: the setting matters


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"bias": "all"}, {"bias": "lora_only"}, {"rank_pattern": {"encoder.0": 2}}]
)
def test_what_peft_writes_of_another_kind_is_refused(
    one: ws.Collection, tmp_path: Path, settings: dict[str, object]
) -> None:
    write(one, tmp_path / "adapter", **settings)
    with pytest.raises(ws.InputError, match=f"has {next(iter(settings))} = "):
        adapt.load_peft(tmp_path / "adapter", one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora = True, which is not read. LoRA and rsLoRA of linear layers"),
        ({"rank_pattern": {"head": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"head": 4}}, "alpha_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"bias": "all"}, "trained biases are not read"),
        ({"bias": "lora_only"}, "trained biases are not read"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"use_what_is_new": True}, "use_what_is_new"),
        ({"new_config": {"a": 1}}, "new_config"),
        ({"peft_type": "IA3"}, "describes no LoRA adapter"),
        ({"r": -1}, "damaged"),
        ({"lora_alpha": "x"}, "damaged"),
        ({"r": 4}, "another shape"),
    ],
)
def test_other_adapters_are_refused(
    one: ws.Collection, written: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    config = json.loads((written / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((written / "adapter_model.safetensors").read_bytes())
    with pytest.raises((ws.InputError, ws.StorageError), match=message):
        adapt.load_peft(tmp_path, one)


def test_an_adapter_of_another_network_is_refused(written: Path) -> None:
    iris = ws.starts(ws.collect(replace(ws.tasks.iris(), recipe=RECIPE), 1, seed=0))
    with pytest.raises(ws.InputError, match="no parameter of this base"):
        adapt.load_peft(written, iris)
    with pytest.raises(ws.InputError, match="only adapters of LoRA"):
        adapt.save_peft(iris, 0, written / "other")


def test_a_pickle_is_never_read(one: ws.Collection, written: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text((written / "adapter_config.json").read_text())
    with pytest.raises(ws.StorageError, match="safetensors is missing"):
        adapt.load_peft(tmp_path, one)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ws.StorageError, match=r"pickle \(adapter_model.bin\), which is never read"):
        adapt.load_peft(tmp_path, one)
