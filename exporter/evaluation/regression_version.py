"""Which version of its service appeared when a regression began: two or three small searches of Tempo, once each.

A sample of spans of the service after the interval in which the regression began is compared with one before it. A
version that many of the later ones have, and no earlier one, appeared then. The result is stored, so that a restart
does not search again, and traces that Tempo no longer has do not matter.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Final, NamedTuple, Protocol, get_args

from exporter.detection.regression.verdict import Regression
from exporter.evaluation.attempts import Attempts
from exporter.evaluation.wakeup import Wakeup, run_steps
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry, VersionOutcome
from exporter.runtime.terminal import printable
from exporter.store import Store, StoreError
from exporter.tempo.errors import RangeTooLongError, TempoError

VERSION_ATTRIBUTE: Final = "resource.service.version"
"""Versions are looked for where ``cause.attributes`` contains this."""

RETRY_SECONDS: Final = 1800.0
"""After a failure of Tempo, the versions are looked for again after this time."""
MAX_ATTEMPTS: Final = 12
"""Failed attempts for one regression before it is given up."""
_SAMPLED_TRACES: Final = 20
_SAMPLE_SECONDS: Final = (6 * 3600, 24 * 3600)
"""Lengths of the ranges before and after the beginning; the longer one where the shorter one has no traces."""
_MIN_SHARE: Final = 0.2
"""A version of a smaller share of the later spans has not slowed the median."""
_MAX_CHARACTERS: Final = 256
_IDLE_SECONDS: Final = 60.0
_OUTCOMES: Final[frozenset[str]] = frozenset(get_args(VersionOutcome))
_FIELDS: Final = ("outcome", "version", "before")


class RegressionVersion(NamedTuple):
    """What is known of the version with which a regression began.

    Attributes:
        outcome: whether a version appeared then.
        version: the version that appeared, or the one that did not change; empty if unknown.
        before: the version that most spans had before; empty without any.
    """

    outcome: VersionOutcome
    version: str = ""
    before: str = ""

    @property
    def sentence(self) -> str:
        """The result in words, on one line."""
        version, before = printable(self.version), printable(self.before)
        match self.outcome:
            case "appeared" if self.before:
                return f"Version {version} of the service appeared then; before, it was {before}."
            case "appeared":
                return f"Version {version} of the service appeared then; before, its spans had no version."
            case "same":
                return f"No version of the service appeared then: it was {version} before and after."
            case "no_version":
                return "Which version appeared then is unknown: the spans of the service have no service.version."
            case "no_traces":
                return "Which version appeared then is unknown: Tempo has no traces of that time."
            case _:
                return "Which version appeared then is unknown: Tempo could not be searched."

    @classmethod
    def decode(cls, text: str) -> "RegressionVersion":
        """Decode a stored result.

        Raises:
            ValueError: it is damaged.
        """
        values = json.loads(text)
        if not isinstance(values, list) or len(values) != len(_FIELDS) or values[0] not in _OUTCOMES:
            raise ValueError("it does not consist of an outcome and two versions")
        return cls(*values)

    def encode(self) -> str:
        """Encode the result for the store."""
        return json.dumps(self)


class VersionSource(Protocol):
    """What the search for versions needs of Tempo; see :class:`exporter.tempo.client.TempoClient`."""

    def sample_versions(
        self, key: SeriesKey, start: int, end: int, limit: int, *, loop: Loop, version: str | None = None
    ) -> list[str]:
        """Return the versions of some spans of the service of a series."""


class VersionSearch:
    """Looks for the version with which a regression began. Thread-safe."""

    def __init__(self, tempo: VersionSource) -> None:
        self._tempo = tempo

    def find(self, key: SeriesKey, regression: Regression, now: int) -> RegressionVersion:
        """Look for the version.

        Raises:
            TempoError: a search failed.
            StoppedError: the exporter is stopping.
        """
        began, over = regression.began_after, regression.began_before

        def before_it(seconds: int) -> tuple[int, int]:
            return began - seconds, began

        after = self._sample(key, lambda seconds: (over, min(now, over + seconds)))
        before = self._sample(key, before_it) if after else []
        if not before:
            return RegressionVersion("no_traces")
        earlier, later = Counter(before), Counter(filter(None, after))
        if not later:
            return RegressionVersion("no_version")
        usual = next((version for version, _ in earlier.most_common() if version), "")
        for version, count in later.most_common():
            # A sample of the earlier ones may have missed it.
            is_new = count >= _MIN_SHARE * len(after) and version not in earlier
            if is_new and not self._has_version(key, before_it, version):
                return RegressionVersion("appeared", version[:_MAX_CHARACTERS], usual[:_MAX_CHARACTERS])
        ((most, _),) = later.most_common(1)
        return RegressionVersion("same", most[:_MAX_CHARACTERS], usual[:_MAX_CHARACTERS])

    def _sample(self, key: SeriesKey, range_of: Callable[[int], tuple[int, int]]) -> list[str]:
        """Return the versions of some spans in a range; in the longer one where the shorter one has none."""
        for seconds in _SAMPLE_SECONDS:
            try:
                found = self._search(key, range_of(seconds))
            except RangeTooLongError as error:
                if error.max_seconds >= seconds:
                    raise
                return self._search(key, range_of(error.max_seconds))
            if found:
                return found
        return []

    def _has_version(self, key: SeriesKey, range_of: Callable[[int], tuple[int, int]], version: str) -> bool:
        """Whether a span in the longer range has a version."""
        try:
            return bool(self._search(key, range_of(max(_SAMPLE_SECONDS)), version))
        except RangeTooLongError as error:
            return bool(self._search(key, range_of(error.max_seconds), version))

    def _search(self, key: SeriesKey, range_: tuple[int, int], version: str | None = None) -> list[str]:
        start, end = range_
        limit = _SAMPLED_TRACES if version is None else 1
        if end <= start:
            return []
        return self._tempo.sample_versions(key, start, end, limit, loop="version", version=version)


class RegressionVersions:
    """Keeps the versions with which the present regressions began.

    :meth:`observe` and :meth:`of` are thread-safe; :meth:`run` and :meth:`look_at_next` belong to one thread.
    """

    def __init__(
        self,
        search: VersionSearch | None,
        store: Store,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        log: Log,
    ) -> None:
        """Start without regressions.

        Args:
            search: looks for one version; None where versions are not read.
            store: keeps the results.
            telemetry: counts the attempts.
            clock: Unix seconds.
            monotonic: seconds that never jump.
            log: receives the results.
        """
        self._search = search
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._log = log
        self._wakeup = Wakeup()
        # Both are replaced as a whole, never changed.
        self._regressions: Mapping[SeriesKey, Regression] = {}
        self._known: Mapping[SeriesKey, tuple[int, RegressionVersion]] = {}
        self._attempts = Attempts(monotonic)

    def use(self, search: VersionSearch | None) -> None:
        """Look for versions with another search from the next one on. Thread-safe."""
        self._search = search

    def of(self, key: SeriesKey, regression: Regression) -> RegressionVersion | None:
        """Return what is known of a present regression; None if nothing yet."""
        raised_at, found = self._known.get(key, (None, None))
        return found if raised_at == regression.raised_at else None

    def observe(self, regressions: Mapping[SeriesKey, Regression]) -> None:
        """Take the present regressions. Returns at once."""
        before, self._regressions = self._regressions, regressions
        if any(key not in before or before[key].raised_at != each.raised_at for key, each in regressions.items()):
            self._wakeup.set()

    def run(self, stop: threading.Event) -> None:
        """Look for versions until stopped.

        Args:
            stop: ends the loop once set; a request under way is cut off.
        """

        def log_crash() -> None:
            self._log.exception("version_crashed", "looking for the version of a regression failed unexpectedly")

        run_steps(self.look_at_next, self._wakeup, stop, log_crash)

    def look_at_next(self) -> float:
        """Look for the version of the oldest regression that is due, if any.

        Returns:
            The seconds until another one is due; 0 if one is due now.

        Raises:
            StoppedError: the exporter is stopping.
        """
        now, search, regressions = self._monotonic(), self._search, self._regressions
        if search is None:
            return _IDLE_SECONDS
        self._attempts.retain(regressions)
        self._known = {key: each for key, each in self._known.items() if key in regressions}
        for key, regression in regressions.items():
            if not self._attempts.has(key, regression.raised_at):
                is_stored = self._recall(key, regression)
                self._attempts.end(key, regression.raised_at, inf if is_stored else 0.0, is_settled=is_stored)
        next_at = {key: self._attempts.of(key, each.raised_at).due_at for key, each in regressions.items()}
        due = [(at, key) for key, at in next_at.items() if at < inf]
        if not due:
            return _IDLE_SECONDS
        due_at, key = min(due)
        if due_at > now:
            return due_at - now
        self._look_at(search, key, regressions[key])
        return 0.0

    def _look_at(self, search: VersionSearch, key: SeriesKey, regression: Regression) -> None:
        raised_at = regression.raised_at
        is_last = self._attempts.of(key, raised_at).number + 1 >= MAX_ATTEMPTS
        self._attempts.begin(key, raised_at, inf if is_last else RETRY_SECONDS)
        fields: dict[str, object] = {}
        try:
            found = search.find(key, regression, int(self._clock()))
        except TempoError as error:
            found, fields["error"] = RegressionVersion("failed"), error
        self._telemetry.version_sought(found.outcome)
        self._known = {**self._known, key: (raised_at, found)}
        self._log.info(
            "regression_version",
            found.sentence,
            **key.fields,
            outcome=found.outcome,
            version=found.version or None,
            version_before=found.before or None,
            **fields,
        )
        is_settled = found.outcome != "failed" or is_last
        self._attempts.end(key, raised_at, inf if is_settled else RETRY_SECONDS, is_settled=is_settled)
        if is_settled:
            self._keep(key, regression, found)

    def _recall(self, key: SeriesKey, regression: Regression) -> bool:
        """Take the version from the store, if it was found before a restart."""
        try:
            found = stored_version(self._store, key, regression)
        except StoreError:
            # Tempo is asked again.
            return False
        if found is None:
            return False
        self._known = {**self._known, key: (regression.raised_at, found)}
        return True

    def _keep(self, key: SeriesKey, regression: Regression, found: RegressionVersion) -> None:
        try:
            self._store.save_regression_version(key, regression.raised_at, found.encode())
        except StoreError as error:
            self._log.warning(
                "version_not_saved", "the version of a regression is not saved; a restart searches again", error=error
            )


def stored_version(store: Store, key: SeriesKey, regression: Regression) -> RegressionVersion | None:
    """Return what is stored of the version with which a regression began; None if there is nothing legible.

    Raises:
        StoreError: the database cannot be read.
    """
    text = store.regression_version(key, regression.raised_at)
    with suppress(ValueError):
        return None if text is None else RegressionVersion.decode(text)
    return None
