"""A tutorial: from trained networks to tickets to a generator of new sparse networks."""

# %% [markdown]
# # Your first generator
#
# We train eighty small networks on handwritten digits, prune each to a fifth of its weights, and let a generator
# learn from these *tickets*. Then we ask it for new sparse networks: networks that classify digits and were never
# trained.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import weightspace as ws

n = 80  # networks; the last 16 are held out
held_out = 16
refinement = 1000  # steps

task = ws.tasks.digits(hidden=(32,), recipe=ws.Recipe("15ep", batch_size=64, optimizer=ws.SGD(lr=0.2)))
print(
    f"{len(task.train):,} images to train with, {len(task.validation)} to choose with, {len(task.test)} to judge with"
)

# %% [markdown]
# ## Train many networks
#
# `collect` trains them side by side, which is far quicker than one after another. All have different starts. With
# `folder=` an interrupted call goes on where it was.

# %%
dense = ws.collect(task, n, seed=0)
accuracies = torch.tensor([record["metrics"]["validation_accuracy"] for record in dense.records])
print(f"{n} networks of {dense.layout.size:,} weights: {accuracies.mean():.1%} right on validation images")

# %% [markdown]
# ## Make them sparse
#
# Gradual pruning removes the smallest weights while training goes on. Each ticket keeps exactly the share that you
# ask for.

# %%
tickets = ws.tickets.GradualPruning(density=0.2, length=ws.Step.of("15ep")).find(dense, task)
accuracies = torch.tensor([record["metrics"]["validation_accuracy"] for record in tickets.records])
print(f"tickets keep {tickets.densities.mean():.0%} of the weights and are {accuracies.mean():.1%} right")

# %% [markdown]
# Which weights survive? The first layer has a weight for each pixel and unit. Let us count, pixel by pixel, which share
# of them is kept. The outer columns of the images are nearly always empty, and the tickets have found that out.

# %%
kept = tickets.layout.tensors(tickets.masks.float())
first = next(iter(kept.values()))  # (networks, units, pixels)
figure, axes = plt.subplots(1, 3, figsize=(8, 2.7), layout="constrained")
pictures = [("mean image", task.train.x.mean(0)[0]), ("kept by one ticket", first[0].mean(0).reshape(8, 8))]
pictures += [("kept by all tickets", first.mean((0, 1)).reshape(8, 8))]
for axis, (title, picture) in zip(axes, pictures, strict=True):
    shown = axis.imshow(picture, cmap="viridis")
    axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axis, shrink=0.8)

# %% [markdown]
# ## Learn from the tickets
#
# The generator brings all tickets into one basin (units can be permuted without changing a network), compresses them
# to 16 numbers each, and learns the distribution of these numbers. Refinement then trains the decoder through the
# task, with training images only. It is what makes samples good.

# %%
model = ws.TicketGenerator(
    align=ws.WeightMatching(),
    compress=ws.PCA(16),
    generate=ws.FlowMatching(steps=1000, validation_fraction=0.1),
    refine=ws.TaskRefinement(steps=refinement),
)
learned_from, unseen = tickets[: n - held_out], tickets[n - held_out :]
generator = model.fit(learned_from, task=task)
samples = generator.sample(50, density=0.2, seed=1)
print(f"{len(samples)} new networks, each with {samples.densities.mean():.0%} of the weights")

# %% [markdown]
# ## Are they any good?
#
# Only now do we read the test images. The tickets here are those that the generator has not seen.


# %%
def share_right(networks):
    """The share of test images that each network gets right."""
    predicted = networks.ensemble().member_proba(task.test.x).argmax(-1)
    return (predicted == task.test.y).double().mean(-1)


found = {"dense": dense, "tickets": unseen, "samples": samples}
jitter = np.random.default_rng(0)
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for row, (name, networks) in enumerate(found.items()):
    scores, ensemble = share_right(networks), networks.ensemble().predict(task.test.x)
    axis.scatter(scores, row + jitter.uniform(-0.2, 0.2, len(scores)), s=14, alpha=0.6)
    together = (ensemble == task.test.y).double().mean()
    print(f"{name:8} {scores.mean():.1%} right on average, {together:.1%} when {len(networks)} vote together")
axis.set(yticks=range(len(found)), yticklabels=found, xlabel="accuracy on test images", title="Each dot is a network")
axis.invert_yaxis()

# %% [markdown]
# Good is not enough: a copy of a ticket would be good too. `evaluate` compares samples with tickets, with means of
# tickets and with other simple baselines. Each line of its answer is a claim that samples must earn; the last paragraph
# is what stands behind the first.

# %%
report = ws.evaluate(samples, task, training=learned_from, held_out=unseen, dropout=None)
for verdict in report.verdicts:
    print(f"{verdict.outcome:4}  {verdict.claim}")
print(report.verdicts[0].words)

# %% [markdown]
# It is a strict judge. This generator has seen few tickets and was refined for a short time, so do not be surprised
# where a claim fails: [the demo](../results/demo.md) answers the same questions with 300 tickets and four times the
# refinement. `report.html("report.html")` writes all tables and figures as one page, and
# [Evaluation](../guides/evaluation.md) explains them. The [generator's guide](../guides/generator.md) has all settings.
