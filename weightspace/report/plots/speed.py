"""Speed of sparse networks over batch sizes."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from weightspace.report.plots.style import tidy


def speed(rows: Sequence[Mapping[str, object]]) -> Figure:
    """Speed-up over dense of each network's accelerated form, over the batch size; 1 is dense.

    Args:
        rows: of :meth:`weightspace.sparse.bench.Timing.to_json`.
    """
    whole = [row for row in rows if row["part"] == "network" and row["form"] != "dense"]
    figure = Figure(figsize=(8.0, 4.2), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    for name in dict.fromkeys((str(row["network"]), str(row["form"])) for row in whole):
        own = [row for row in whole if (row["network"], row["form"]) == name]
        style = ("--", 0.5) if name[1] != "accelerated" else ("-", 1.0)
        label = name[0] if name[1] == "accelerated" else f"{name[0]}: {name[1]}"
        axes.plot(
            [float(str(row["batch"])) for row in own], [float(str(row["speedup"])) for row in own], style[0], marker="o",
            markersize=3, alpha=style[1], label=label,
        )  # fmt: skip
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="batch size", ylabel="speed-up over dense", ylim=(0, None))
    axes.legend(fontsize=7)
    tidy(axes)
    return figure
