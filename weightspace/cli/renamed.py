"""Options and verbs of version 0.1 that have another name now."""

from collections.abc import Sequence

_OPTIONS: dict[str, dict[str, str]] = {
    "evaluate": {"--reference": "--training", "--memory": "--memory-gb"},
    "align": {"--reference": "--reference-index", "--compare": "--cost weights:NAMES", "--posterior": "--cost"},
    "fit": {
        "--held-out": "--flow.validation-fraction", "--source": "--flow.source-std",
        "--jitter": "--flow.path-noise-std", "--forget": "--flow.condition-dropout",
        "--components": "--compress.components", "--balance": "--align.balance", "--no-balance": "--align.no-balance",
        "--refine-densities": "--refine.patterns", "--refine-nm": "--refine.patterns",
    },
    "sample": {"--nm": "--pattern"},
    "tickets prune-at-init": {
        "--nm": "--pattern", "--layers": "--scope layer or --pattern erk:DENSITY", "--after": "--start",
    },
    "tickets imp": {"--survivors": "--after-pruning"},
    "tickets early-bird": {"--channels": "--density", "--distance": "--max-mask-distance", "--memory": "--history"},
    "collect": {
        "--grid-lr": "--grid.lr", "--grid-weight-decay": "--grid.weight-decay",
        "--grid-label-noise": "--grid.label-noise",
    },
}  # fmt: skip
_FLOW = (
    "width",
    "blocks",
    "steps",
    "batch-size",
    "lr",
    "lr-final",
    "weight-decay",
    "betas",
    "ema",
    "pairing",
    "solver-steps",
)
_VERBS = {"start": "prune-at-init", "popup": "edge-popup", "bird": "early-bird"}


def hints(verb: str, words: Sequence[str]) -> list[str]:
    """What is to be written instead, for each word that version 0.1 knew.

    Args:
        verb: The verb, such as "tickets imp".
        words: The whole command line.
    """
    first, _, second = verb.partition(" ")
    if first == "tickets" and second in _VERBS:
        return [f"`tickets {second}` is now called `tickets {_VERBS[second]}`"]
    table = dict(_OPTIONS.get(verb, {}))
    if verb == "fit":
        table |= {f"--{name}": f"--flow.{name}" for name in _FLOW}
        table |= {word: word.replace("-refine-", "-refine.") for word in words if word.startswith("--refine-")} | table
    options = [word.partition("=")[0] for word in words]
    return [f"{word} is now called {table[word]}" for word in dict.fromkeys(options) if word in table]
