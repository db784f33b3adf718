"""Compares methods over seeds: paired, corrected for the number of comparisons, and put into words.

Reports, studies and tools all compare here, so that one rule decides what is better: the paired t test, its p
Holm-corrected where there are several comparisons. `kdlab.core.statistics` computes the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdlab.core.statistics import Interval, Mean, Paired, holm, least_p, mean, paired, significant_sign

Values = Mapping[int, float]
"""Values by seed."""


@dataclass(frozen=True)
class Comparison:
    """One method against another on the seeds that both have.

    p_holm, wilcoxon_holm: p of the t test and of the signed-rank test, Holm-corrected for `tests` comparisons.
    """

    label: str
    against: str
    seeds: tuple[int, ...]
    paired: Paired
    p_holm: float
    wilcoxon_holm: float
    tests: int

    @property
    def name(self) -> str:
        return f"{self.label} − {self.against}"

    def better(self, direction: str) -> bool | None:
        """Whether the method is better or worse, where `max` or `min` is better; None where neither is significant."""
        return better(self.paired.mean, self.p_holm, direction)

    def sentence(self, direction: str, *, every_test: bool = True) -> str:
        """The result in words. every_test: with bootstrap and Wilcoxon, for a single comparison."""
        verdict = sentence(self.label, self.against, self.paired.mean, self.p_holm, self.tests, direction)
        if self.paired.bootstrap is None or self.tests > 1 or not every_test:
            return verdict
        bootstrap, p = format_interval(self.paired.bootstrap), self.paired.wilcoxon
        least = ", the smallest possible with so few seeds" if p <= least_p(len(self.seeds)) else ""
        return f"{verdict.removesuffix('.')} (t), {bootstrap} (bootstrap); Wilcoxon p {p:.3g}{least}."


def compare(pairs: Sequence[tuple[str, str, Values, Values]]) -> list[Comparison]:
    """Compares each pair, (label, against, values, values), on its common seeds; pairs without any are left out."""
    found = []
    for label, against, values, others in pairs:
        if seeds := sorted(values.keys() & others.keys()):
            compared = paired([values[seed] for seed in seeds], [others[seed] for seed in seeds])
            found.append((label, against, tuple(seeds), compared))
    by_t = holm([compared.p for *_, compared in found])
    by_rank = holm([compared.wilcoxon for *_, compared in found])
    return [Comparison(*one, p, rank, len(found)) for one, p, rank in zip(found, by_t, by_rank, strict=True)]


def better(difference: Mean, p: float, direction: str) -> bool | None:
    """Whether a mean difference is for the better; None where its corrected p is not below 0.05."""
    sign = significant_sign(difference.value, p)
    return None if sign == 0 else (sign > 0) == (direction == "max")


def sentence(label: str, against: str, difference: Mean, p: float, tests: int, direction: str, metric: str = "") -> str:
    """The result of a comparison, in words.

    Args:
        label, against: the methods.
        difference: between them, over seeds.
        p: of the t test, Holm-corrected.
        tests: how many comparisons p was corrected for.
        direction: `max` or `min`, whichever is better.
        metric: what differs, where that is not clear from the context.
    """
    value = f"{metric} {format_difference(difference.value)}".strip()
    if difference.interval is None:
        return f"{label} − {against}: {value} with one seed, which says little."
    verdict = {None: "does not differ significantly from", True: "is better than", False: "is worse than"}
    result = (
        f"{label} {verdict[better(difference, p, direction)]} {against}: {value} on average over {difference.n} seeds, "
        f"95 % interval {format_interval(difference.interval)}"
    )
    return (
        f"{result}."
        if tests == 1
        else f"{result} uncorrected; t test, Holm-corrected for {tests} comparisons: p {p:.3g}."
    )


def format_difference(value: float) -> str:
    """A difference with its sign, a proper minus: `−0.0120`."""
    return f"{value:+.4f}".replace("-", "−")


def format_interval(interval: Interval | None) -> str:
    """`+0.0056 to +0.0266`; empty where there is none."""
    return f"{format_difference(interval[0])} to {format_difference(interval[1])}" if interval else ""


def format_mean(values: Sequence[float], separator: str = "\n", *, deviation: bool = False) -> str:
    """`0.9683 ± 0.0042`, the 95 % t interval or the standard deviation; no spread after identical values."""
    if not values:
        return ""
    found = mean(values)
    spread = found.deviation if deviation else found.margin
    return f"{found.value:.4f}" + (f"{separator}± {spread:.4f}" if spread else "")
