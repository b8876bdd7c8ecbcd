"""A tutorial: sparse Bayesian networks, and what they say of digits that nobody trained with."""

# %% [markdown]
# # A Bayesian ticket
#
# A trained network has one value for each weight. A Bayesian network has a distribution: a mean and a standard
# deviation that say how sure the data make it. Here we prune such networks to a tenth of their weights, and then show
# them digits of kinds that they have never seen. Do they notice, and do plain tickets notice less?

# %%
import matplotlib.pyplot as plt
import torch

import weightspace as ws
from weightspace import bayes

n = 3  # networks
draws = 20  # networks that are drawn from each posterior
length = "15ep"  # of one training

recipe = ws.Recipe(length, batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
task = ws.tasks.digits(hidden=(64,), held_out=(8, 9), recipe=recipe)  # no 8 and no 9 in any split
assert task.ood is not None
strange = task.ood()
print(f"{len(task.train)} images of 0 to 7 to train with; {len(strange)} images of 8 and 9 that nobody trains with")

# %% [markdown]
# ## Prune posteriors
#
# `BayesianIMP` fits a posterior to each network, removes the weights that matter least, and repeats from the start.
# The score is the ratio of mean and standard deviation: a weight that is small, or that the data leave open, goes
# first.

# %%
start = ws.collect(task, n, seed=0)
finder = bayes.BayesianIMP(density=0.1, rate=0.6, score=bayes.SignalToNoise())
levels = finder.find_levels(start, task)
for level in levels:
    right = (bayes.means(level).ensemble().predict(task.validation.x) == task.validation.y).double().mean()
    print(f"{level.densities.mean():5.1%} of the weights: {right:.1%} right on validation images")
posteriors = levels[-1]

# %% [markdown]
# ## What the data say of each weight
#
# Each dot is a weight of the first layer: on the left all weights, on the right those that are kept. Trainings are
# short here, so that standard deviations have hardly moved from where they began: look at the scale. It is the mean
# that decides what is kept. After longer training they differ, and so does the score.


# %%
def scatter(axis, level, title):
    """Mean and standard deviation of the weights of the first network's first layer."""
    layer = next(iter(level.layout.slices.values()))
    kept = level.masks[0, layer]
    mean, deviation = level.weights[0, layer][kept], level.extras["std"][0, layer][kept]
    axis.scatter(mean, deviation, s=4, alpha=0.4)
    axis.set(xlabel="mean", title=title, yscale="log")


figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), sharex=True, sharey=True, layout="constrained")
scatter(left, levels[0], "all weights")
scatter(right, posteriors, "the ticket's")
left.set(ylabel="standard deviation")

# %% [markdown]
# ## Draw networks
#
# A posterior is a distribution of networks. Its draws agree where the data were clear, and differ where they were
# not. For comparison, deterministic tickets of the same starts, with as many weights.

# %%
nets = bayes.draw(posteriors, draws, seed=1)
tickets = ws.tickets.IMP(density=0.1, rate=0.6).find(start, task)


def entropy(networks, x):
    """How unsure the mean prediction is, in nats, for each image: 0 is sure, log(8) is a guess."""
    probabilities = networks.ensemble().predict_proba(x)
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


compared = {"one ticket": tickets[:1], f"{n} tickets": tickets, f"{n} posteriors": nets}
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharex=True, sharey=True, layout="constrained")
for axis, (name, networks) in zip(axes, compared.items(), strict=True):
    known, unknown = entropy(networks, task.test.x), entropy(networks, strange)
    axis.hist([known.numpy(), unknown.numpy()], 12, (0, 2.08), density=True, label=["0 to 7", "8 and 9"])
    axis.set(title=name, xlabel="entropy, nats")
    right = (networks.ensemble().predict(task.test.x) == task.test.y).double().mean()
    told = (unknown[:, None] > known).double().mean()
    print(f"{name:13} {right:.1%} right; an 8 or a 9 looks stranger than a known digit in {told:.0%} of pairs")
axes[0].legend(fontsize=8)
figure.suptitle("How unsure are predictions of digits that are known, and of digits that are not?")

# %% [markdown]
# Compare the last figures of the lines above: posteriors need not tell strange digits better than plain tickets, which
# are an ensemble as well. The [measurements](../results/bayes.md) have more networks and longer trainings.
#
# ## What it is unsure of
#
# The strange images that the posteriors are surest of, and least sure of, each with what it is taken for.

# %%
order = entropy(nets, strange).argsort()
shown = torch.cat([order[:6], order[-6:]])
figure, axes = plt.subplots(2, 6, figsize=(8, 3.2), layout="constrained")
for axis, image, guess in zip(axes.flat, strange[shown], nets.ensemble().predict(strange[shown]), strict=True):
    axis.imshow(image[0], cmap="gray_r")
    axis.set(title=f"a {guess}?", xticks=[], yticks=[])
figure.suptitle("Surest (above) and least sure (below)")

# %% [markdown]
# [Bayesian tickets](../guides/bayes.md) has priors, scores, gates and regressions.
