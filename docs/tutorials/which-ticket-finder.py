"""A tutorial: six ticket finders on the same networks, down to very few weights."""

# %% [markdown]
# # Which ticket finder?
#
# A ticket is a network with few weights that is still as good. There are many ways to find one, and they differ most
# in what they cost. Here six finders prune the same networks to a fifth, a twentieth and a hundredth of their
# weights. We look at how good the tickets are, what they cost, and what they look like.

# %%
import time

import matplotlib.pyplot as plt

import weightspace as ws

n = 3  # networks, each with its own start
length = "10ep"  # of one training
densities = (0.2, 0.05, 0.01)  # shares of the weights that are kept

recipe = ws.Recipe(length, batch_size=64, optimizer=ws.SGD(lr=0.2), schedule="cosine")
task = ws.tasks.digits(hidden=(128, 64), recipe=recipe)
dense = ws.collect(task, n, seed=0)


def score(networks):
    """Mean accuracy on validation images."""
    return sum(record["metrics"]["validation_accuracy"] for record in networks.records) / len(networks)


print(f"{n} dense networks of {dense.layout.size:,} weights: {score(dense):.1%}")

# %% [markdown]
# ## The finders
#
# - **Iterative magnitude pruning** trains, removes the smallest weights, puts the others back to their start, and
#   repeats. It is the finder of the lottery ticket papers, and takes as many trainings as it has levels.
# - **One shot** does this once. **Gradual pruning** removes a little every few steps while the dense networks train
#   on.
# - **RigL** is sparse from the first step. It removes small weights, and grows others where the gradient is large.
# - **SynFlow** and **magnitude** choose before any training, and then train what is left.

# %%
finders = {
    "iterative": lambda density: ws.tickets.IMP(density=density, rate=0.6),
    "one shot": lambda density: ws.tickets.IMP(density=density, rate=1 - density),
    "gradual": lambda density: ws.tickets.GradualPruning(density=density, length=ws.Step.of(length)),
    "RigL": lambda density: ws.tickets.DynamicSparseTraining(density=density),
    "SynFlow": lambda density: ws.tickets.PruneAtInit(ws.tickets.SynFlow(), density=density),
    "magnitude": lambda density: ws.tickets.PruneAtInit(ws.tickets.MagnitudeScore(), density=density),
}
found, scores, seconds = {}, {}, {}
for name, finder in finders.items():
    began = time.perf_counter()
    found[name] = [finder(density).find(dense, task) for density in densities]
    seconds[name] = (time.perf_counter() - began) / len(densities)
    scores[name] = [score(tickets) for tickets in found[name]]
    print(f"{name:10}", *(f"{right:6.1%}" for right in scores[name]), f"  {seconds[name]:5.1f} s for {n} tickets")

# %% [markdown]
# ## How good are they?
#
# At a fifth nearly everything works, and the cheapest finder will do. The fewer the weights, the more the choice
# matters. All finders get trainings of the same short length here: this is a comparison at one setting, and some,
# such as RigL, may ask for longer ones.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, line in scores.items():
    left.plot(densities, line, marker="o", label=name)
left.axhline(score(dense), color="black", linestyle=":", label="dense")
left.set(xscale="log", xlabel="share of weights kept", ylabel="validation accuracy", title="Accuracy")
left.set_xticks(densities, [f"{density:.0%}" for density in densities])
left.invert_xaxis()
left.legend(fontsize=8)
right.barh(list(seconds), list(seconds.values()), color="tab:gray")
right.set(xlabel=f"seconds for {n} tickets, side by side", title="Cost")
right.invert_yaxis()

# %% [markdown]
# ## What do they look like?
#
# For each pixel, the share of its 128 weights that the ticket keeps, at the middle density. Finders that train dense
# networks first leave out the outer columns, where digits have no ink. RigL starts from a random mask and moves it
# little in so short a time. SynFlow and magnitude choose before they have seen an image.

# %%
figure, axes = plt.subplots(1, len(found), figsize=(10, 2.2), layout="constrained")
for axis, (name, tickets) in zip(axes, found.items(), strict=True):
    masks = tickets[1].layout.tensors(tickets[1].masks.float())
    axis.imshow(next(iter(masks.values())).mean((0, 1)).reshape(8, 8), cmap="viridis", vmin=0)
    axis.set(title=name, xticks=[], yticks=[])
figure.suptitle(f"Where tickets keep their weights, at {densities[1]:.0%}")

# %% [markdown]
# ## Do two starts agree?
#
# Tickets of one finder from different starts share about as many weights as chance would have it, once the layers'
# own densities are taken into account. There is no one ticket: each start has its own.

# %%
for name, tickets in found.items():
    shared, chance = ws.tickets.mask_overlap(tickets[1][:-1], tickets[1][1:])
    print(f"{name:10} {shared.mean():.0%} shared, {chance.mean():.0%} by chance")

# %% [markdown]
# So: take gradual pruning first, as it costs one more training. Take iterative pruning where only a few per cent of
# the weights may stay. [Tickets](../guides/tickets.md) has all finders and their settings, and the
# [measurements](../results/tickets.md) compare them with intervals.
