"""Statistics over a handful of seeds: means with intervals, paired differences, and tests of many methods at once.

Intervals are 95 % intervals of the mean over seeds:
- Student's t, mean ± t(n − 1) · s / √n: right for roughly normal values, wide for few;
- percentile bootstrap over seeds, 9999 draws: assumes no distribution, too narrow with five seeds.

Several comparisons at once are judged by their paired t tests, p Holm-corrected; a single one therefore by its t
interval.

Student. The Probable Error of a Mean. Biometrika, 1908. Efron, Tibshirani. An Introduction to the Bootstrap. 1993.
Wilcoxon. Individual Comparisons by Ranking Methods. Biometrics Bulletin, 1945.
Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

LEVEL = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds. For a single seed, `deviation` and `margin` are None.

    n: how many values. deviation: their standard deviation, over n − 1. margin: half of the 95 % t interval.
    """

    n: int
    value: float
    deviation: float | None
    margin: float | None

    @property
    def interval(self) -> Interval | None:
        """The 95 % t interval of the mean."""
        return None if self.margin is None else (self.value - self.margin, self.value + self.margin)


@dataclass(frozen=True)
class Paired:
    """A method against another, seed by seed.

    differences: by seed. mean: of them, with its t interval. bootstrap: the bootstrap interval, None for a single seed.
    p, wilcoxon: of the t test and of the signed-rank test, two-sided.
    """

    differences: tuple[float, ...]
    mean: Mean
    bootstrap: Interval | None
    p: float
    wilcoxon: float


def mean(values: Sequence[float]) -> Mean:
    """The mean of one or more values with its 95 % t interval."""
    if len(values) == 1:
        return Mean(1, values[0], None, None)
    from scipy.stats import t  # type: ignore[import-untyped]

    deviation = stdev(values)
    quantile = float(t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return Mean(len(values), fmean(values), deviation, quantile * deviation / sqrt(len(values)))


def bootstrap(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean by percentile bootstrap, the same at every call; None for a single value."""
    if len(values) == 1:
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    import numpy
    from scipy.stats import bootstrap as resampled

    found = resampled(
        (values,), numpy.mean, confidence_level=LEVEL, n_resamples=9999, method="percentile", rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def t_test(found: Mean) -> float:
    """Two-sided p of the t test that a mean is zero: below 0.05 where its 95 % interval excludes zero.

    1 for a single value; for identical values 0, or 1 where they are zero.
    """
    if found.deviation is None:
        return 1.0
    if found.deviation == 0:
        return 0.0 if found.value else 1.0
    from scipy.stats import t

    return float(2 * t.sf(abs(found.value) * sqrt(found.n) / found.deviation, found.n - 1))


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test that differences are symmetric about zero; 1 where all are zero.

    Exact up to 50 seeds, up to 13 where some are equal. Differences of zero are left out. Accuracies are
    float32 fractions of a test set: rounded to six digits, differences by equally many samples tie.
    """
    rounded = [round(difference, 6) for difference in differences]
    if not any(rounded):
        return 1.0
    from scipy.stats import wilcoxon as signed_rank

    return float(signed_rank(rounded).pvalue)


def least_p(n: int) -> float:
    """The smallest p that Wilcoxon's two-sided test can give for n seeds: 2 of the 2ⁿ ways to give n ranks a sign."""
    return min(1.0, 2.0 ** (1 - n))


def paired(values: Sequence[float], others: Sequence[float]) -> Paired:
    """A method against another on the same seeds, in the same order.

    Raises:
        ValueError: where their numbers differ.
    """
    differences = tuple(value - other for value, other in zip(values, others, strict=True))
    found = mean(differences)
    return Paired(differences, found, bootstrap(differences), t_test(found), wilcoxon(differences))


def significant_sign(difference: float, p: float) -> int:
    """1 or −1, the sign of a difference whose p, corrected, is below 0.05; 0 where it is not significant."""
    return 0 if p >= 1 - LEVEL or difference == 0 else 1 if difference > 0 else -1


def holm(p: Sequence[float]) -> list[float]:
    """Holm-corrected p, in the order given.

    The smallest is multiplied by the number of tests, the next by one less, and so on; their order is kept and none
    exceeds 1. Rejecting below 0.05 keeps the chance of even one false positive among all tests below 5 %, however
    they depend on each other.
    """
    corrected = [0.0] * len(p)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = least
    return corrected
