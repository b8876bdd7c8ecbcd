"""Losses and gradients of a group of networks on their own batches: side by side, or one after another."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from weightspace.kernels.live_network import LiveNetwork
from weightspace.networks.calling import call, call_with
from weightspace.networks.forward import forward
from weightspace.networks.layout import Layout
from weightspace.runtime import seeds, trees
from weightspace.runtime.trees import Tree

Loss = Callable[[Tree, Tree], Tensor]


def draws_random_numbers(module: nn.Module, x: Tree) -> bool:
    """True if the forward pass in training draws random numbers, as dropout does.

    Args:
        x: Inputs to try it on; a few are enough.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        training = module.training
        before = torch.random.get_rng_state()
        call(module.train(), x)
        drew = not torch.equal(before, torch.random.get_rng_state())
        module.train(training).load_state_dict(state)  # a forward pass in training moves statistics
        return drew


def side_by_side(
    module: nn.Module,
    layout: Layout,
    loss: Loss,
    weights: Tensor,
    buffers: Mapping[str, Tensor],
    x: Tree,
    y: Tree,
    out: Float[Tensor, "n d"],
) -> Float[Tensor, " n"]:
    """Losses of n networks, and their gradients into `out`, in one vectorised pass; buffers are updated in place.

    Args:
        weights: (n, D).
        buffers: (n, *shape) by name.
        x: Inputs (n, batch, ...).
        y: Targets (n, batch, ...).
        out: Tensor that receives the gradients.
    """
    leaves = {name: view.requires_grad_() for name, view in layout.tensors(weights.detach()).items()}
    losses = each_loss(loss, forward(module, leaves, buffers, x, shared_input=False), y)
    _gradient_into(out, layout, leaves, losses.sum())
    return losses.detach()


def each_loss(loss: Loss, outputs: Tree, y: Tree) -> Float[Tensor, " n"]:
    """The loss of each of n networks.

    Args:
        loss: Mean loss of one network's outputs against its targets.
        outputs: Outputs (n, batch, ...), in the structure that the module returns.
        y: Targets (n, batch, ...).
    """
    if isinstance(outputs, Tensor) and isinstance(y, Tensor):
        return vmap(loss)(outputs, y)

    def one(parts: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return loss(trees.rebuild(outputs, parts), trees.rebuild(y, targets))

    return vmap(one)(trees.tensors(outputs), trees.tensors(y))


def one_by_one(
    module: nn.Module,
    layout: Layout,
    loss: Loss,
    weights: Tensor,
    buffers: Mapping[str, Tensor],
    x: Tree,
    y: Tree,
    out: Float[Tensor, "n d"],
    noise: Sequence[int] | None = None,
) -> Float[Tensor, " n"]:
    """The same in a loop, for networks that do not vectorise or are faster alone.

    Args:
        noise: A seed for each network's own random numbers (dropout) in this step.
    """
    losses: list[Tensor] = []
    for i in range(len(weights)):
        leaves = {name: view.requires_grad_() for name, view in layout.tensors(weights[i].detach()).items()}
        own = {name: buffer[i] for name, buffer in buffers.items()}
        if noise is None:
            value = loss(call_with(module, (leaves, own), trees.take(x, i)), trees.take(y, i))
        else:
            with seeds.seeded_modules(noise[i], "dropout"):
                value = loss(call_with(module, (leaves, own), trees.take(x, i)), trees.take(y, i))
        losses.append(value.detach())
        _gradient_into(out[i], layout, leaves, value)
    return torch.stack(losses)


def live_weights(
    network: LiveNetwork,
    loss: Loss,
    weights: Float[Tensor, "1 k"],
    buffers: Mapping[str, Tensor],
    x: Tree,
    y: Tree,
    out: Float[Tensor, "1 k"],
) -> Float[Tensor, " 1"]:
    """The same for one network given by its live weights; `out` receives their gradients."""
    values = weights[0].detach().requires_grad_()
    own = {name: buffer[0] for name, buffer in buffers.items()}
    value = loss(network(values, own, trees.take(x, 0)), trees.take(y, 0))
    out[0].copy_(torch.autograd.grad(value, values)[0])
    return value.detach()[None]


def _gradient_into(out: Tensor, layout: Layout, leaves: Mapping[str, Tensor], value: Tensor) -> None:
    """Each tensor's gradient to its place in `out`, which is kept from step to step: fresh memory costs page faults."""
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for place, gradient in zip(layout.tensors(out).values(), gradients, strict=True):
        place.copy_(gradient)
