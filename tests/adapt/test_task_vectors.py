"""Task vectors are collections of changes: they lead from a base to networks and are kept like networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.adapt.conftest import RECIPE
from weightspace import adapt


def test_a_vector_leads_from_the_base_to_the_networks(base: ws.Collection, first: ws.Task) -> None:
    trained = ws.train(base, first, "6it")
    vectors = adapt.TaskVectors.between(trained, base)
    back = vectors.on(base)
    torch.testing.assert_close(back.weights, trained.weights, rtol=0, atol=1e-7)
    for name, buffer in trained.buffers.items():
        if buffer.is_floating_point():
            torch.testing.assert_close(back.buffers[name], buffer)
    assert not torch.allclose(vectors.on(base, scale=0.5).weights, trained.weights)  # the control
    torch.testing.assert_close(vectors.on(base, scale=0.5).weights, (trained.weights + base.weights) / 2)


def test_they_are_saved_and_sliced_as_task_vectors(
    base: ws.Collection, vectors: adapt.TaskVectors, tmp_path: Path
) -> None:
    loaded = adapt.TaskVectors.load(vectors.save(tmp_path / "vectors"), factory=vectors.architecture.factory)
    assert torch.equal(loaded.weights, vectors.weights)
    assert torch.equal(loaded.trained, vectors.trained)
    assert isinstance(vectors[:1], adapt.TaskVectors)
    assert torch.equal(vectors[:1].on(base[:1]).weights, vectors.on(base).weights[:1])
    networks = base.save(tmp_path / "networks")
    with pytest.raises(ws.StorageError, match="not task vectors: open it with Collection.load"):
        adapt.TaskVectors.load(networks, factory=base.architecture.factory)


def test_only_some_tensors(base: ws.Collection, vectors: adapt.TaskVectors) -> None:
    head = vectors.only("head.*")
    changed = {e.name for e in base.layout.parameters if head.weights[:, base.layout.slices[e.name]].any()}
    assert changed == {"head.weight", "head.bias"}
    both = vectors.only("encoder.*").on(head.on(base))
    assert torch.equal(both.weights, vectors.on(base).weights)
    with pytest.raises(ws.InputError, match="no tensor is called"):
        vectors.only("decoder.*")
    with pytest.raises(ws.InputError, match="name the tensors"):
        vectors.only()


def test_another_head_is_left_out_and_said(vectors: adapt.TaskVectors, second: ws.Task) -> None:
    other = ws.starts(ws.collect(second, 2, seed=1))
    with pytest.warns(UserWarning, match=r"left out of the task vectors.*head\.bias \(3,\) for \(2,\)"):
        adapted = vectors.on(other)
    head, body = (other.layout.slices[name] for name in ("head.weight", "encoder.0.weight"))
    assert torch.equal(adapted.weights[:, head], other.weights[:, head])
    assert not torch.equal(adapted.weights[:, body], other.weights[:, body])
    vectors.only("encoder.*").on(other)  # without a change of the head there is nothing to say


def test_what_does_not_fit_is_refused(base: ws.Collection, vectors: adapt.TaskVectors, first: ws.Task) -> None:
    with pytest.raises(ws.InputError, match="scale must be a finite number"):
        vectors.on(base, scale=float("nan"))
    three = ws.Collection.concatenate([base, base[:1]])
    with pytest.raises(ws.InputError, match="go together one by one, got 2 and 3"):
        vectors.on(three)
    assert len(vectors[:1].on(three)) == 3
    assert len(vectors.on(base[:1])) == 2
    sparse = base.replace(
        weights=base.weights * (masks := ws.Unstructured(0.5).mask(base.weights.abs(), base.layout)), masks=masks
    )
    with pytest.raises(ws.InputError, match="the base must be dense"):
        vectors.on(sparse)
    iris = ws.starts(ws.collect(replace(ws.tasks.iris(), recipe=RECIPE), 2, seed=0))
    with pytest.raises(ws.InputError, match="no tensor of the task vectors has the name and the shape"):
        vectors.on(iris)


def test_samples_of_changes_are_changes(
    base: ws.Collection, vectors: adapt.TaskVectors, first: ws.Task, tmp_path: Path
) -> None:
    """Their statistics of BatchNorm are those of the base: a network that is made of changes alone has none."""
    twice = vectors.replace(weights=2 * vectors.weights)
    many = adapt.TaskVectors.of(ws.Collection.concatenate([vectors, twice]))
    flow = ws.FlowMatching(width=8, blocks=1, steps=2, batch_size=2)
    model = ws.TicketGenerator(align=None, compress=ws.PCA(2), generate=flow)
    generator = model.fit(many, seed=0)
    sampled = generator.sample(3, density=0.1)
    drawn = adapt.TaskVectors.of(sampled)
    on = drawn.on(base[:1])
    torch.testing.assert_close(on.weights, base.weights[:1] + sampled.weights)
    assert (on.weights == base.weights[:1])[sampled.weights == 0].all()
    loaded = adapt.TaskVectors.load(sampled.save(tmp_path / "drawn"), factory=base.architecture.factory)
    assert torch.equal(loaded.on(base[:1]).weights, on.weights)
    decoded = adapt.TaskVectors.of(generator.decode(generator.encode(many), density=0.1))
    assert len(decoded) == len(many)
    for wrong in (
        lambda: generator.sample(3, density=0.1, data=first.train),
        lambda: generator.sample(3, density=0.1, polish="1it", task=first),
        lambda: generator.calibrate(first),
        lambda: model.fit(many, task=first),
    ):
        with pytest.raises(ws.InputError, match=r"TaskVectors.of\(samples\).on\(base\)"):
            wrong()
    networks = model.fit(ws.Collection.concatenate([base, on]), seed=0)
    with pytest.raises(ws.InputError, match=r"TaskVectors.between\(networks, base\)"):
        adapt.TaskVectors.of(networks.sample(2, density=0.1, data=first.train))
    with pytest.raises(ws.InputError, match="give data=task.train"):
        networks.sample(2, density=0.1)


def test_changes_of_all_weights_are_sampled_although_some_came_back_to_where_they_began() -> None:
    architecture = ws.Architecture("MLP", {"sizes": [30, 40, 3]})
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    start = ws.Collection(layout, torch.randn(1, layout.size, generator=random), architecture=architecture)
    tuned = start.weights + 0.1 * torch.randn(6, layout.size, generator=random)
    tuned[:, 7] = start.weights[0, 7]
    model = ws.TicketGenerator(
        align=None, compress=ws.PCA(2), generate=ws.FlowMatching(width=8, blocks=1, steps=2, batch_size=4)
    )
    vectors = adapt.TaskVectors.between(ws.Collection(layout, tuned, architecture=architecture), start)
    drawn = model.fit(vectors).sample(2, density=1.0)
    assert drawn.masks.all()
    assert (drawn.weights[:, 7] == 0).all()
    tenth = vectors.replace(weights=vectors.weights * (torch.arange(layout.size) < 150), masks=None)
    few = tenth.replace(masks=(tenth.weights != 0) | ~layout.prunable)
    with pytest.raises(ws.InputError, match="ask for a lower density"):  # the control: changes of few weights
        model.fit(few).sample(2, density=1.0)
