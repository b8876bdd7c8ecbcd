"""Whether the flow of a generator knows more than a Gaussian: what was measured, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from weightspace.report.cells import number
from weightspace.report.page import Table
from weightspace.report.results import Outcome, Verdict

ENOUGH = 10  # held-out codes for a verdict
SAME = 0.02  # nats for each number of a code that are no difference

CLAIM = "the flow knows more than a Gaussian"
GAUSSIAN = "Gaussian"
FLOW = "flow"


@dataclass(frozen=True)
class CodeDensity:
    """One density of codes, fitted to the same training codes as the flow, on held-out codes.

    Args:
        name: "flow", "Gaussian", "Gaussian mixture" or "kernel density".
        how: Settings that were best on the held-out codes, which favours all but the flow.
        nats: Mean log-density of a held-out code.
        low: Lower end of the 95 % bootstrap interval of this mean.
        high: Upper end.
        behind: How much higher the flow's mean log-density is; None for the flow itself.
        behind_low: Lower end of the 95 % bootstrap interval of this difference, over held-out codes.
        behind_high: Upper end.
    """

    name: str
    how: str
    nats: float
    low: float
    high: float
    behind: float | None = None
    behind_low: float | None = None
    behind_high: float | None = None


@dataclass(frozen=True)
class TwoSampleTest:
    """A permutation test of samples against held-out codes by their energy distance (Székely and Rizzo 2013).

    Args:
        name: What made the samples: "flow" or "Gaussian".
        samples: Number of samples.
        distance: Energy distance; 0 for equal distributions.
        p: Share of random divisions of all codes whose distance is at least as large.
    """

    name: str
    samples: int
    distance: float
    p: float


@dataclass(frozen=True)
class FlowKnowledge:
    """What a flow knows of codes that it was not trained on, beside what simpler densities know.

    Args:
        training: Codes that flow and densities were fitted to.
        held_out: Codes that they are compared on.
        source: Where the held-out codes come from.
        numbers: Numbers in a code.
        divergence: How the flow's density was computed: "exact", or Hutchinson's estimate with its number of probes.
        densities: The flow, then the others; empty where codes have no density.
        tests: Samples against the held-out codes.
        left_out: Why there are no densities; empty where there are.
    """

    training: int
    held_out: int
    source: str
    numbers: int
    divergence: str
    densities: Sequence[CodeDensity]
    tests: Sequence[TwoSampleTest]
    left_out: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the flow knows more than a Gaussian: pass, fail or open."""
        test = (
            "95 % bootstrap interval over held-out codes of the difference between their log-densities under the flow "
            f"and under the Gaussian: above 0 passes, below {SAME} nats a number fails"
        )
        gaussian = next((one for one in self.densities if one.name == GAUSSIAN), None)
        if gaussian is None or gaussian.behind is None:
            words = f"The flow was not compared with a Gaussian: {self.left_out}.{self._tested()}"
            return Verdict(CLAIM, "open", words, test)
        assert gaussian.behind_low is not None
        assert gaussian.behind_high is not None
        words = (
            f"On {self.held_out} held-out codes ({self.source}) the log-density of the flow minus that of a Gaussian "
            f"is {gaussian.behind:+.2f} nats a code ({gaussian.behind_low:+.2f} to {gaussian.behind_high:+.2f}): "
        )
        outcome: Outcome = "open"
        if self.held_out < ENOUGH:
            words += f"fewer than {ENOUGH} codes do not decide."
        elif gaussian.behind_low > 0:
            outcome, words = "pass", words + "it knows more."
        elif gaussian.behind_high < SAME * self.numbers:
            outcome, words = "fail", words + "it knows no more, and sampling a Gaussian would do."
        else:
            words += "not told apart; more networks, or a larger validation_fraction, would tell."
        return Verdict(CLAIM, outcome, words + self._best(outcome) + self._tested(), test)

    def _best(self, outcome: Outcome) -> str:
        """A sentence on a density that is as good as the flow although the Gaussian is not."""
        others = [one for one in self.densities if one.behind is not None]
        best = max(others, key=lambda one: one.nats)
        if outcome != "pass" or best.name == GAUSSIAN:
            return ""
        assert best.behind is not None
        assert best.behind_low is not None
        word = "less" if best.behind_low > 0 else "as much" if best.behind > -SAME * self.numbers else "more"
        return f" Of the others, the {best.name} ({best.how}) is best and knows {word} ({best.behind:+.2f} nats)."

    def _tested(self) -> str:
        if not self.tests:
            return ""
        told = ", ".join(f"of the {one.name} p = {one.p:.3f}" for one in self.tests)
        return f" Samples against held-out codes (energy test): {told}."

    @property
    def table(self) -> Table:
        """The densities and tests, a row each."""
        tests = {one.name: one for one in self.tests}
        header = ["density", "nats a code", "95 %", "flow ahead by", "95 %", "energy distance", "p"]
        names = [one.name for one in self.densities] or list(tests)
        densities = {one.name: one for one in self.densities}
        rows = [header]
        for name in names:
            one, test = densities.get(name), tests.get(name)
            ahead = "-"
            if one is not None and one.behind_low is not None:
                ahead = f"{one.behind_low:+.2f} to {one.behind_high:+.2f}"
            rows.append(
                [
                    name,
                    number(one and one.nats),
                    "-" if one is None else f"{one.low:.2f} to {one.high:.2f}",
                    number(one and one.behind, "+.2f"),
                    ahead,
                    number(test and test.distance, ".3f"),
                    number(test and test.p, ".3f"),
                ]
            )
        legend = [
            ("nats a code", f"mean log-density of {self.held_out} held-out codes of {self.numbers} numbers"),
            ("held-out codes", self.source),
            ("flow's density", f"divergence: {self.divergence}"),
            ("energy distance, p", "samples against held-out codes, permutation test; a small p tells them apart"),
        ]
        if self.left_out:
            legend.append(("left out", self.left_out))
        notes = [(one.name, one.how) for one in self.densities if one.how]
        return Table("Does the flow know more than a Gaussian?", rows, legend, [FLOW], notes)
