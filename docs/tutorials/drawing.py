"""A tutorial: networks that are pictures, and a generator that draws new ones."""

# %% [markdown]
# # Networks that draw
#
# A network can *be* a picture. It takes the coordinates of a point and returns how bright the picture is there. Train
# one such network for each of many pictures, and you have a data set of weights. In this tutorial a generator learns
# from the weights alone, and invents networks that draw digits nobody wrote.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import weightspace as ws

n = 300  # pictures, and so networks
steps = 1000  # of the generator's training

pixels, labels = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 8, 8)  # 1,797 pictures of 8 x 8
task = ws.tasks.pictures("digits", images[:n], unseen=images[n : 2 * n])

# %% [markdown]
# ## A network for each picture
#
# `SharedStart(at="0it")` gives all networks the same weights at the start. Each then moves a little, to its own
# picture. So unit 5 of one network has the same role as unit 5 of another, and weights can be compared without
# alignment.

# %%
networks = ws.collect(task, n=n, plan=ws.SharedStart(at=ws.Step.of("0it")))
print(f"{len(networks)} networks of {networks.layout.size:,} weights, for pictures of 64 pixels each")

# %% [markdown]
# The networks know nothing of pixels, so they can be asked for the points in between. Above are the pictures, 8 x 8.
# Below are the networks that were fitted to them, drawn at 64 x 64.


# %%
def show(rows, title):
    """Rows of pictures."""
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=(8, 0.9 * len(rows) + 0.4), squeeze=False, layout="constrained"
    )
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture.squeeze(), cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
    figure.suptitle(title)


show([images[:10], ws.tasks.draw(networks[:10], 64, 64)], "Pictures, and the networks that draw them")

# %% [markdown]
# ## Learn from the weights
#
# The generator never sees a picture. It compresses each network to 32 numbers and learns with flow matching how these
# numbers are distributed. We also tell it which digit each network draws, so that we can ask for one later.

# %%
records = [record | {"digit": str(labels[record.data])} for record in networks.records]
networks = networks.replace(records=records)
model = ws.TicketGenerator(
    align=None,
    compress=ws.PCA(32),
    generate=ws.FlowMatching(steps=steps, validation_fraction=0.05),
    masks=ws.MagnitudeMask(),
    conditions=("digit",),
)
generator = model.fit(networks)

# %% [markdown]
# ## Draw
#
# Each picture below is a new network. We ask for each digit in turn; `guidance` above 1 makes the digits clearer, and
# more alike.

# %%
rows = []
for digit in "0123456789":
    new = generator.sample(5, density=1.0, condition={"digit": digit}, guidance=1.5, seed=1)
    rows.append(ws.tasks.draw(new, 32, 32).clip(0, 1))
show([[row[i] for row in rows] for i in range(5)], "New networks: five for each digit")

# %% [markdown]
# ## Between two networks
#
# Codes are numbers, and there is a way from one network to another. Each picture on it is a network too.

# %%
way = generator.interpolate(networks[[0, 2]], 10, density=1.0)
show([ws.tasks.draw(way, 32, 32).clip(0, 1)], "From one network to another")

# %% [markdown]
# ## New, or copied?
#
# A generator that remembers its training pictures would draw well too. So we compare: how far is each sample from the
# nearest picture that was learned from, and how far are real pictures that nobody learned from?

# %%
samples = generator.sample(n // 2, density=1.0, seed=2)
report = ws.evaluate_pictures(samples, task, training=networks, knowledge=generator.knowledge)
print(report)

# %% [markdown]
# The last rows are verdicts. `report.html("pictures.html")` writes a page that shows each sample beside its nearest
# training picture. [Networks that draw](../guides/pictures.md) has the settings for all 1,797 digits, and sparse
# networks.
