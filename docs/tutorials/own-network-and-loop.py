"""A tutorial: tickets of a network of your own, first trained by weightspace, then by a loop of yours."""

# %% [markdown]
# # Your own network, your own loop
#
# Any `nn.Module` can have tickets. We take a small convolutional network, which weightspace has never heard of, and
# find tickets of it. Then we keep a training loop of our own, with augmentation of our own, and let weightspace prune
# in it.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import weightspace as ws

n = 3  # networks
length = "20ep"  # of one training
loop_steps = 600  # of our own loop

torch.manual_seed(0)
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)


def build():
    """A fresh network."""
    first = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*first, *second, nn.Linear(512, 10))


# %% [markdown]
# ## weightspace trains
#
# A task says what the network is for. It splits the data, and its recipe says how to train.

# %%
recipe = ws.Recipe(length, batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
task = ws.tasks.from_tensors("my digits", x, y, build, recipe=recipe)
dense = ws.collect(task, n, seed=0)
levels = ws.tickets.IMP(density=0.05, rate=0.6).find_levels(dense, task)
for level in levels:
    right = [record["metrics"]["validation_accuracy"] for record in level.records]
    print(f"{level.densities.mean():6.1%} of the weights: {sum(right) / n:.1%} right")

# %% [markdown]
# Pruning looks at the whole network, so layers give up different shares of their weights. The large last layer loses
# most.

# %%
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for name in ("0.weight", "3.weight", "6.weight"):
    kept = [level.layout.tensors(level.masks.float())[name].mean() for level in levels]
    axis.plot([level.densities.mean() for level in levels], kept, marker="o", label=name)
axis.set(xscale="log", yscale="log", xlabel="density of the network", ylabel="density of the layer")
axis.set(title="Which layers are pruned?")
axis.invert_xaxis()
axis.legend()

# %% [markdown]
# The first layer's filters are small enough to look at. Weights that are pruned are white.

# %%
ticket = levels[len(levels) // 2]
filters = ticket.layout.tensors(ticket.weights)["0.weight"][0, :, 0]
figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for axis, one in zip(axes.flat, filters, strict=True):
    axis.imshow(one, cmap="RdBu", vmin=-filters.abs().max(), vmax=filters.abs().max())
    axis.set(xticks=[], yticks=[])
figure.suptitle(f"Filters of a ticket with {ticket.densities[0]:.0%} of its weights")

# %% [markdown]
# ## Your loop prunes
#
# Here is a loop as you may have it: AdamW, images that are shifted by up to a pixel, no task and no recipe. Three
# lines are new: a schedule, a pruner, and `pruner.step()` after each step. The schedule removes weights from a fifth
# of the way to three fifths. Instead of a tenth at random places, `ws.NM(2, 4)` would end at a pattern that graphics
# cards can use.

# %%
module = build()
optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
schedule = ws.tickets.GradualSchedule(ws.Unstructured(0.1), start=loop_steps // 5, end=loop_steps * 3 // 5, every=5)
pruner = ws.tickets.Pruner(module, schedule, optimizer=optimizer)
losses, densities = [], []
for _ in range(loop_steps):
    rows = torch.randint(1400, (64,))
    shift = torch.randint(-1, 2, (2,)).tolist()
    loss = F.cross_entropy(module(x[rows].roll(shift, (2, 3))), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    pruner.step()
    losses.append(loss.item())
    densities.append(pruner.density)
right = (module(x[1400:]).argmax(-1) == y[1400:]).double().mean()
print(f"{pruner.density:.0%} of the weights: {right:.1%} right on images that the loop has not seen")

# %%
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.plot(losses, color="tab:blue", alpha=0.7)
axis.set(xlabel="step", ylabel="loss (blue)", yscale="log", title="Loss and density in our own loop")
other = axis.twinx()
other.plot(densities, color="tab:orange")
other.set(ylabel="density (orange)", ylim=(0, 1.05))

# %% [markdown]
# ## What you have now
#
# The pruned module is a collection of one, with its mask: it can be saved, loaded and compared. `ws.compact` removes
# the units that have died, and the function stays the same.

# %%
ticket = pruner.collection(build)
ticket.save("my-ticket")
again = ws.Collection.load("my-ticket", factory=build)
print(again, again.densities)

# %% [markdown]
# [Your own networks](../guides/own-networks.md) reads checkpoints that you have. [Your own training
# loop](../guides/own-loop.md) also goes the other way, and lets weightspace call your loop. [Your own
# data](../guides/tasks.md) has regressions, texts, tables and losses of your own.
