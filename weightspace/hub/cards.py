"""What the card of a repository says: facts from records and layout, tables, and how to open it."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev
from typing import Any

from weightspace.networks.collection import Collection
from weightspace.report.pictures import PictureReport
from weightspace.report.report import Report

_ROWS = 60  # of the table of tensors


def card_of_collection(networks: Collection, name: str, text: str) -> str:
    """The card of a collection.

    Args:
        networks: The networks.
        name: Name of the repository.
        text: Markdown that follows the facts.
    """
    layout, architecture = networks.layout, networks.architecture
    densities = networks.densities
    low, high = densities.min().item(), densities.max().item()
    factory = ", factory=your_network" if architecture.factory is not None else ""
    facts = {
        "networks": f"{len(networks)} of {_code(architecture.name)}"
        + (f" {_code(json.dumps(dict(architecture.arguments)))}" if architecture.arguments else ""),
        "weights": f"{layout.size:,} trainable, {layout.num_prunable:,} of them prunable",
        "density": f"{low:.4g}" + (f" to {high:.4g}" if high > low else ""),
        "fingerprint": _code(networks.fingerprint()),
    }
    facts |= _recorded(networks)
    title = "Sparse networks" if high < 1 else "Trained networks"
    parts = [
        f"# {title}: {len(networks)} of {architecture.name}",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        f'```python\nimport weightspace as ws\n\nnetworks = ws.hub.pull("{name}"{factory})\n```',
        _metrics(networks),
        _layout(networks),
        text,
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def card_of_report(report: Report | PictureReport, name: str, text: str) -> str:
    """The card of a report.

    Args:
        report: The report.
        name: Name of the repository.
        text: Markdown that follows the facts.
    """
    verdicts = [(v.claim, v.outcome, v.words) for v in report.verdicts]
    if isinstance(report, PictureReport):
        title, summary = f"Report on networks that draw: {report.task}", report.table()
        facts = f"- pictures of each kind: {report.count:,}\n- compared by {report.features}"
    else:
        title, summary = f"Report on sampled networks: {report.task}", report.tables()[0]
        rows = f"{len(report.groups)} groups of networks on one test split"
        facts = f"- test samples: {report.test_samples:,}\n- rows: {rows}"
    parts = [
        f"# {title}",
        report.headline(),
        facts,
        f'```python\nimport weightspace as ws\n\nreport = ws.hub.pull("{name}")\nprint(report)\n```',
        _table(["claim", "outcome", "evidence"], verdicts) if verdicts else "",
        "## Summary\n\n" + _table(summary.rows[0], summary.rows[1:]),
        text,
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _recorded(networks: Collection) -> dict[str, str]:
    """What the records agree on, and how often they say what they do not."""
    facts: dict[str, str] = {}
    for key, title in (("kind", "made as"), ("task", "task"), ("run", "runs")):
        counts = Counter(str(record[key]) for record in networks.records if key in record)
        if counts and len(counts) <= 5:
            facts[title] = ", ".join(f"{_code(word)} ({count})" for word, count in counts.most_common())
        elif counts:
            facts[title] = f"{len(counts)} different ones"
    for key, title in (("recipe", "recipe"), ("method", "ticket finder"), ("params", "settings")):
        found = {json.dumps(record[key], sort_keys=True) for record in networks.records if key in record}
        if len(found) == 1:
            facts[title] = _code(found.pop())
        elif found:
            facts[title] = f"{len(found)} different ones, in the records"
    return facts


def _metrics(networks: Collection) -> str:
    found: dict[str, list[float]] = {}
    for record in networks.records:
        for name, value in record.metrics.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(float(value))
    if not found:
        return ""
    rows = [
        (name, len(v), f"{fmean(v):.4g}", f"{pstdev(v):.2g}", f"{min(v):.4g}", f"{max(v):.4g}")
        for name, v in found.items()
    ]
    return "## Metrics\n\n" + _table(["metric", "networks", "mean", "std", "least", "greatest"], rows)


def _layout(networks: Collection) -> str:
    entries = networks.layout.entries
    rows = [(_code(e.name), " × ".join(map(str, e.shape)) or "1", e.role) for e in entries[:_ROWS]]
    more = f"\n\nand {len(entries) - _ROWS} more" if len(entries) > _ROWS else ""
    return "## Tensors of a network\n\n" + _table(["name", "shape", "role"], rows) + more


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(text: str) -> str:
    """Text between backticks, whatever is in it."""
    plain = " ".join(text.split()).replace("`", "'")
    return f"`{plain}`"
