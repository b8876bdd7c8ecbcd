"""Speed of sparse networks over batch sizes."""

from collections.abc import Mapping, Sequence

from weightspace.report.plots.style import Figure, blank, tidy


def speed(rows: Sequence[Mapping[str, object]]) -> Figure:
    """Speed-up over dense of each network's accelerated form, over the batch size; 1 is dense.

    Args:
        rows: Measurements as `weightspace.sparse.bench.Timing.to_json` returns them.
    """
    whole = [row for row in rows if row["part"] == "network" and row["form"] != "dense"]
    figure = blank(8.0, 4.2)
    axes = figure.add_subplot()
    for name in dict.fromkeys((str(row["network"]), str(row["form"])) for row in whole):
        points = [row for row in whole if (row["network"], row["form"]) == name]
        style, alpha = ("--", 0.5) if name[1] != "accelerated" else ("-", 1.0)
        label = name[0] if name[1] == "accelerated" else f"{name[0]}: {name[1]}"
        x, y = ([float(str(row[key])) for row in points] for key in ("batch", "speedup"))
        axes.plot(x, y, style, marker="o", markersize=3, alpha=alpha, label=label)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="batch size", ylabel="speed-up over dense", ylim=(0, None))
    axes.legend(fontsize=7)
    tidy(axes)
    return figure
