"""Low-rank adapters: what they hold, that they begin at the base, and what they stand for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.adapt.conftest import body
from weightspace import adapt
from weightspace.adapt.low_rank import LowRankLinear, linear_layers, with_adapters

LORA = adapt.LoRA(rank=2, alpha=4.0, on="encoder.*", whole="head.*")


@pytest.fixture(scope="module")
def one(base: ws.Collection) -> ws.Collection:
    """One base, for two adapters."""
    return ws.starts(base[[0, 0]], seed=0)


@pytest.fixture(scope="module")
def adapters(one: ws.Collection, first: ws.Task) -> ws.Collection:
    return LORA.find(one, first)


def test_adapters_hold_a_b_and_the_head_alone(adapters: ws.Collection, one: ws.Collection) -> None:
    parameters = {entry.name: entry.shape for entry in adapters.layout.parameters}
    assert parameters == {
        "encoder.0.lora_A.weight": (2, 4),
        "encoder.0.lora_B.weight": (12, 2),
        "encoder.3.lora_A.weight": (2, 12),
        "encoder.3.lora_B.weight": (8, 2),
        "head.weight": (3, 8),
        "head.bias": (3,),
    }
    assert adapters.layout.size < one.layout.size
    assert not torch.equal(adapters.weights[0], adapters.weights[1])  # each its own start and order of the data


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_is_its_task_vector(
    adapters: ws.Collection, one: ws.Collection, first: ws.Task
) -> None:
    x = first.test.x
    fresh = LORA.architecture(one).build_seeded(0).eval()
    assert torch.equal(fresh(x), one.module(0).eval()(x))
    vectors = adapt.task_vectors(adapters, one)
    both = vectors.on(one)
    for i in range(2):
        found, expected = adapters.module(i).eval()(x), both.module(i).eval()(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, one.module(0).eval()(x), atol=1e-3)  # the control
    change = vectors.layout.tensors(vectors.weights)["encoder.3.weight"]
    assert torch.linalg.matrix_rank(change, tol=1e-4).tolist() == [2, 2]
    still = vectors.layout.tensors(vectors.trained)["encoder.1.weight"]
    assert not still.any()


def test_saved_adapters_are_loaded_beside_their_base_alone(
    adapters: ws.Collection, one: ws.Collection, base: ws.Collection, tmp_path: Path
) -> None:
    folder = adapters.save(tmp_path / "adapters")
    loaded = adapt.LoRA.load(folder, one)
    assert torch.equal(loaded.weights, adapters.weights)
    assert torch.equal(loaded.module(1)(torch.ones(2, 4)), adapters.module(1)(torch.ones(2, 4)))
    with pytest.raises(ws.StorageError, match="another base"):
        adapt.LoRA.load(folder, base[1:])
    with pytest.raises(ws.InputError, match="another base"):
        adapt.task_vectors(adapters, base[1:])
    networks = one.save(tmp_path / "networks")
    with pytest.raises(ws.StorageError, match="holds no adapters"):
        adapt.LoRA.load(networks, one)


def test_tied_weights_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    held = with_adapters(module, [], ["1.bias"], 1, 1.0)
    assert held.get_buffer("0.weight") is held.get_buffer("1.weight")
    assert list(held.state_dict()) == ["1.bias"]


def test_what_cannot_have_an_adapter_is_refused(base: ws.Collection, one: ws.Collection, first: ws.Task) -> None:
    with pytest.raises(ws.InputError, match="share one base"):
        LORA.find(base, first)
    with pytest.raises(ws.InputError, match="none is the weight of an nn.Linear"):
        adapt.LoRA(on="encoder.1.*").architecture(one)
    with pytest.raises(ws.InputError, match="no layer is left"):
        adapt.LoRA(on="head.*", whole="head.*").architecture(one)
    with pytest.raises(ws.InputError, match="rank"):
        adapt.LoRA(rank=0)
    with pytest.raises(ws.InputError, match="alpha"):
        adapt.LoRA(alpha=-1.0)
    attention = nn.MultiheadAttention(4, 2)  # its projection is used without a call of the layer
    assert linear_layers(attention) == {}
    assert set(linear_layers(body(3)())) == {"encoder.0.weight", "encoder.3.weight", "head.weight"}
    assert isinstance(LORA.architecture(one).build_seeded(0).get_submodule("encoder.0"), LowRankLinear)


def test_buffers_of_the_base_are_shared_and_must_stand_still(first: ws.Task) -> None:
    class Counted(nn.Module):
        def __init__(self, step: float) -> None:
            super().__init__()
            self.encoder = nn.Linear(4, 3)
            self.step = step
            self.table: torch.Tensor
            self.register_buffer("table", torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and self.step:
                self.table.add_(self.step)
            return self.encoder(x * self.table)

    still, moving = (
        ws.starts(ws.from_state_dict(Counted(0.0).state_dict(), lambda step=step: Counted(step)), seed=0)
        for step in (0.0, 1.0)
    )
    task = replace(first, architecture=still.architecture)
    adapters = adapt.LoRA(rank=1).find(still, task)
    assert adapters.buffers == {}
    assert adapt.task_vectors(adapters, still).on(still).buffers["table"].tolist() == [[1.0] * 4]
    with pytest.raises(ws.InputError, match="training changes the buffer table"):
        adapt.LoRA(rank=1).find(moving, replace(first, architecture=moving.architecture))


def test_samples_of_adapters_are_adapters(
    adapters: ws.Collection, one: ws.Collection, first: ws.Task, tmp_path: Path
) -> None:
    dead = adapters.weights.clone()
    dead[:, adapters.layout.slices["encoder.0.lora_B.weight"].start] = 0  # beside a unit that is never active
    stages = ws.TicketGenerator(align=None, compress=ws.PCA(1), generate=ws.FlowMatching(width=8, steps=2))
    fitted = stages.fit(ws.Collection.concatenate([adapters.replace(weights=dead)] * 8), seed=0)
    samples = fitted.sample(3, density=1.0, data=first.train)
    assert samples.masks.all()
    loaded = adapt.LoRA.load(samples.save(tmp_path / "samples"), one)
    assert torch.equal(loaded.weights, samples.weights)
    changed = adapt.task_vectors(loaded, one).on(one[:1])
    x = first.test.x
    torch.testing.assert_close(changed.module(0).eval()(x), loaded.module(0).eval()(x), rtol=1e-3, atol=1e-4)
    assert (adapt.save_peft(samples, 1, tmp_path / "peft") / "adapter_config.json").exists()


def test_a_network_that_is_one_layer_has_no_place_for_an_adapter() -> None:
    def layer() -> nn.Module:
        return nn.Linear(3, 2)

    with pytest.raises(ws.InputError, match="Linear has no nn.Linear inside"):
        adapt.LoRA(rank=1).architecture(ws.from_state_dict(layer().state_dict(), layer))
