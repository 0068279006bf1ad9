"""What the detector finds in the hours of one series: the quantiles it compares, and its results as they are stored."""

from typing import Final, NamedTuple

from exporter.model.deviations import MAX_LANES
from exporter.model.histogram_codec import decode_numbers, encode_numbers, head_bytes, size_of_numbers

QUANTILES: Final = (0.5, 0.9, 0.99)
"""Quantiles that the shift test compares with the baseline."""

LOW_QUANTILE: Final = 0.2
"""A quantile of the faster requests, which moves with the median where all requests do."""

Swings = tuple[int, ...]
"""Sums of squared prediction errors, as pairs of sum and number of terms.

One pair for each of :data:`QUANTILES`, three times: for the evaluation windows at the marks, for the windows of half an
hour, and for the evaluation windows compared with the level of the half hour before them. Sums are in units of 1/4096
square octave; integers, so that adding and subtracting hours is exact.

Six sums follow that say how alike the requests of a window are. Over the evaluation windows at the marks: their number,
and, in units of 1/4096, the share of the traces above the median of the baseline, and the share of the pairs of traces
of which one lies above it and one does not. Over pairs of these windows that are an hour apart: their number, how many
windows of them have their median above that of the baseline, and the number of pairs of which one has and one has not.
"""

ERROR_SUMS: Final = 3 * 2 * len(QUANTILES)
"""Number of sums of errors in :data:`Swings`, which come first."""
NO_SWINGS: Final[Swings] = (0,) * (ERROR_SUMS + 6)
"""Swings of an hour without prediction."""

PATTERN_BUCKETS: Final = 4
"""A median deviation of more than this, 0.15 octave, is a pattern within the hour; a smaller one is noise."""


HourProfile = tuple[tuple[int, ...], ...]
"""Pattern within the hour: for each of :data:`QUANTILES` how much higher it is at each mark, in buckets; empty without
any."""


class HourEvaluation(NamedTuple):
    """Result of evaluating a settled hour; stored beside its digest.

    Attributes:
        quarantined: the hour was anomalous: it is stored and shown, but not pooled and not part of the swing.
        swings: squared errors of the predictions for the hour's evaluation windows.
        deviations: deviations of these windows from the baseline; see :mod:`exporter.model.deviations`.
    """

    quarantined: bool = False
    swings: Swings = NO_SWINGS
    deviations: bytes = b""

    @property
    def is_counted(self) -> bool:
        """Whether the hour counts for the swings and the pattern of its series."""
        return not self.quarantined and self.swings != NO_SWINGS

    def encoded(self) -> "EncodedEvaluation":
        """Encode the evaluation."""
        # An hour has a dozen windows, so its sums have at most 18 bits.
        return EncodedEvaluation(self.quarantined, encode_numbers(self.swings) + self.deviations)


NOT_EVALUATED: Final = HourEvaluation()


class EncodedEvaluation(NamedTuple):
    """The evaluation of an hour as it is stored: for one more hour of a series, few of those before it are decoded.

    Attributes:
        quarantined: as in :class:`HourEvaluation`.
        numbers: the swings, encoded by :func:`.histogram_codec.encode_numbers`, and behind them the deviations.
    """

    quarantined: bool
    numbers: bytes

    @property
    def is_counted(self) -> bool:
        """Whether the hour counts for the swings and the pattern of its series."""
        return not self.quarantined and not self.numbers.startswith(_NO_SWINGS_ENCODED)

    def decoded(self) -> HourEvaluation:
        """Decode the evaluation.

        Raises:
            DamagedDigestError: the encoded swings are truncated; see :func:`is_evaluation`.
        """
        # As HourEvaluation() does, in half the time.
        return tuple.__new__(HourEvaluation, (self.quarantined, *decode_numbers(self.numbers, _NUMBERS)))


_NUMBERS: Final = len(NO_SWINGS)
_HEAD_BYTES: Final = head_bytes(_NUMBERS)
_NO_SWINGS_ENCODED: Final = encode_numbers(NO_SWINGS)


def is_evaluation(numbers: bytes) -> bool:
    """Whether bytes are swings and deviations as in :class:`EncodedEvaluation`, and not damaged."""
    # Called for each hour of all series whenever these are read.
    return 0 <= len(numbers) - size_of_numbers(numbers[:_HEAD_BYTES], _NUMBERS) <= MAX_LANES


class ShiftPeriod(NamedTuple):
    """A time in which the flag of a series fired, in Unix seconds.

    Attributes:
        since: beginning of the shift.
        until: when the shift was over, a hold time before the flag was resolved; None while it fires.
        peak_score: the highest score while it fired.
    """

    since: float
    until: float | None
    peak_score: float
