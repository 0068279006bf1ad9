"""What each key of the API means, in CommonMark. The OpenAPI description and the table in docs/api.md are made of it.

A key has the same meaning in every response. Those of errors are not among them.
"""

from typing import Final

KEYS: Final[dict[str, str]] = {
    "account": "what the extra time consists of; `null` with too few traces",
    "allowed": (
        "maximum number of slow or failed traces in the evaluation window if the endpoint behaved like its baseline"
    ),
    "anomalous": "whether the flag of this kind is firing; `null` without a verdict",
    "as": "of a mark: `expected`, `incident` or `normal`",
    "at_unix": "the instant of the request; of an outlier, when it ended",
    "attribute": "name of an attribute that goes with the slow calls",
    "baseline": "the baseline; `null` at level 5, and while the level is `null`",
    "baseline_error_ratio": "usual share of failed requests; `null` while unknown",
    "baseline_seconds": "the quantile in the baseline",
    "basis": (
        "what the contrast is of: `time` (calls with the value take longer) or `frequency` (the incident has "
        "it more often)"
    ),
    "before_seconds": "the median, or the p90, in the same hours of the weeks before a regression",
    "began_after_unix": "earliest plausible instant at which a regression began",
    "began_before_unix": "latest plausible instant at which it began",
    "begins_seconds": (
        "offset from the start of the root; on the critical path, when the root first waited for the span"
    ),
    "blamed_services": "the extra time by service to which it belongs, the most first",
    "bounds_seconds": "the durations between the rows of a heat map, ascending: one more than there are rows",
    "bucket": "alias of `slot`",
    "callee": "service that the spans of a component call; `null` if that is not traced",
    "calls": "calls of the component in the incident",
    "can_be_added": "whether marks can be added and deleted over the API",
    "cause": "kind of cause: `slower_calls`, `more_calls`, `new_calls`, `path`, `busy` or `mix`; `null` unless known",
    "cause_service_name": "the service that causes a shift or an incident; `null` unless known, empty for another mix",
    "cause_span_name": "its operation",
    "certainty": (
        "share of the bootstrap replicates in which requests of the same kind take longer; of an incident, in "
        "which its service comes first"
    ),
    "chance": "probability of so many slow traces by chance and normal swing",
    "changepoint_unix": "the changepoint: when the present behaviour began, after an accepted change",
    "check": "the root compared with its baseline, as in `/api/v1/check`",
    "comment": "what people wrote about a mark; `null` for nothing",
    "compared_endpoints": "endpoints that were compared for the shift of a service; `null` while unknown",
    "comparison_url": (
        "link that compares the slow traces with the others in Traces Drilldown; `null` without `grafana.url`, or if "
        "there were too few traces"
    ),
    "comparison_urls": (
        "for each flag that is firing, by its kind (`shift`, `errors`, `traffic`), a link that compares its traces "
        "with those of the hour before in Traces Drilldown; empty without `grafana.url`"
    ),
    "components": "what a request waits for, the most extra time first, at most 30; with an incident 10 are kept",
    "contrasts": "attribute values that go with the largest part",
    "correlation": (
        "how alike the requests of one window are, learned: the correlation of being slow, 0.003 to 0.9; "
        "`chance` allows for it"
    ),
    "counts": "traces by row of a heat map, for each point",
    "critical_path": "the spans that the root waited for, in order of time; of more than 200, the longest",
    "critical_path_steps": "number of spans on the critical path",
    "current_p50_seconds": "median of the evaluation window",
    "current_p95_seconds": "95th percentile of the evaluation window",
    "current_seconds": "current value of the quantile",
    "current_traces": "traces in the evaluation window",
    "day_type": "`weekday` or `weekend`; a holiday counts as weekend",
    "depth": "number of spans above it",
    "deviations": "how far off the last days were when the regression was found, in standard deviations of such means",
    "duplicates": "spans that were received more than once: the same id, service, name, kind and start",
    "duration": "the verdict on a duration; `null` without one",
    "duration_seconds": "duration of a span",
    "elsewhere": "spans that are not below the explained span",
    "enabled": "whether there are verdicts on the endpoint: `false` where an override has `enabled: false`",
    "end_unix": (
        "end of the hour, marked range, point or incident; `null` while an incident lasts; of a timeline, now"
    ),
    "endpoints": "endpoints of the incident, the cause first",
    "endpoints_by_role": "number of endpoints by role",
    "epoch_unix": "alias of `changepoint_unix`",
    "error": "whether the span failed",
    "error_ratio": "share of failed requests in the evaluation window; `null` while unknown",
    "error_thresholds": (
        "what the failures are compared with in that hour: the usual error ratio, the one that bursts reach, the one "
        "from which on it matters, and the pooled history; `null` while unknown"
    ),
    "errors": "the failed requests of the evaluation window, and the verdict on them",
    "errors_quarantined": "whether the hour is kept out of the usual failures",
    "evaluated_at_unix": "when current traffic was last evaluated",
    "excess_seconds_total": (
        "time lost since the exporter started: seconds beyond the usual p95, of all requests; `null` without a baseline"
    ),
    "excess_traces_total": (
        "requests that took longer than the usual p95 since the exporter started; `null` without a baseline"
    ),
    "expected_error_ratio": "share of failed requests that `chance` was measured from",
    "explanation": "the evidence for a shift, or in `errors` for that too many requests fail",
    "extra_seconds": "how much longer a request takes in the incident, or how much of that belongs to a service",
    "factor": "how many times as long the calls with the value take",
    "failed": "those that failed",
    "failed_calls": "calls of the largest part that fail; `null` unless clearly more than usual",
    "failures": "failed requests in the evaluation window; `null` while unknown",
    "far_limit_seconds": "one run above this is a shift",
    "flag": "which flag: `shift`, `errors` or `traffic`",
    "flags": "the times in which flags fired",
    "healthy_calls": "calls per request on the critical path, in healthy traces",
    "healthy_ratio": "share of the calls that fail in healthy traces",
    "healthy_seconds": "time per request in healthy traces",
    "healthy_trace_id": "a typical healthy trace",
    "heat_map": "how the durations are distributed, by point",
    "hour": "the hour in local time; in a slot, its number",
    "hours": "the last so many hours are compared with the weeks before",
    "id": "id of a mark that is stored; `null` of one in the configuration",
    "in_cycles": "spans that are their own ancestors",
    "incident": "id of the incident",
    "incident_share": "share of the requests of the incident",
    "incident_traces": "traces of the incident that were compared",
    "incidents": "the incidents, the newest first",
    "judged_at_unix": "alias of `evaluated_at_unix`",
    "kept_out_hours_unix": "starts of quarantined hours, of any slot",
    "key": "name of a setting: a key of `detection`, `enabled` or `severity`",
    "kind": (
        "`server`, `client`, `internal`, `producer`, `consumer` or `unspecified`; of an endpoint: `request` or `stream`"
    ),
    "known_until_unix": "later hours were not used",
    "labels": "the labels of the series that `series.labels` adds, by name; absent where it has none",
    "last_outlier": "the latest outlier",
    "learning_hours": "hours of the day whose baseline is not mature, by day type",
    "level": (
        "fallback level: 1 exact hour, 2 nearby hours, 3 day type, 4 all history, 5 unavailable; for now "
        "`null` while the baseline table is being built after a start"
    ),
    "level_by_hour": "levels from midnight on, by day type",
    "level_factor": "with `level`: how many times its baseline the endpoint took in the half hour before; otherwise 1",
    "level_name": "the level in words",
    "levels": "what each enabled level has and needs",
    "limit_error_ratio": "share of failed requests from which on it matters",
    "limit_seconds": "what the quantile must exceed for a shift; of runs, two in a row",
    "local": "start of the hour in local time",
    "longest_run_seconds": "the longest past run of these hours; in an explanation `null` unless `test` is `runs`",
    "longest_spans": "the ten longest spans below the root, on the critical path or not",
    "low_requests": "fewer requests in an hour are a drop unless by chance; `null` if too few are usual for a verdict",
    "lower_bound": "lower bound (5 %) of the share",
    "mad_seconds": "median absolute deviation from the median",
    "marks": "what people have marked of the time in question; `[]` without any",
    "match": "expression or matchers by which a mark selects endpoints",
    "mature": "whether the baseline is from enough hours and days for a shift verdict",
    "merged_into": "incident of which it turned out to be a part; `null` if of none",
    "missing_parents": "spans whose parent is missing",
    "mix_seconds": "extra time because of another mix of requests",
    "more_frequent": (
        "requests that were rare, have become frequent and make the extra time; `null` unless such are known"
    ),
    "more_seconds": "extra time because of more calls",
    "moved": "spans moved in time to correct the clocks of services",
    "name": "name of a slot, for people",
    "needed_traces": "traces that a level needs",
    "next_cursor": "where the next page starts",
    "no_shift_verdict": (
        "why there is no shift verdict: `disabled` (an override has `enabled: false`), `unavailable`, "
        "`learning`, `stream`, `not_judged` (history is not evaluated up to this hour)"
    ),
    "not_waited_for": "spans that outlive their parent, and all spans below them",
    "now": "the current state; `null` for another time",
    "now_calls": "calls per request on the critical path, in the incident",
    "now_seconds": "time per request in the incident",
    "observed_p50_seconds": "median of the traces of a point",
    "observed_p95_seconds": "their 95th percentile",
    "oddities": "inconsistencies of the trace, as numbers of spans",
    "of_root": "whether the root span has the attribute; otherwise the spans of the component have it",
    "operations": "operations that these requests call",
    "origin": (
        "where the values of a point are from: `history`, `live_edge` (the evaluation window at its end), "
        "`null` if its "
        "time was not read"
    ),
    "outcome": "`known`, `unclear`, `no_difference`, `no_traces` or `failed`",
    "outlier": (
        "whether a duration is above the outlier threshold; of now, whether the evaluation window contains an outlier"
    ),
    "outlier_threshold_seconds": "a single trace slower than this is an outlier",
    "override": "position in `overrides` of the item that decides a setting, from 0",
    "overrides": "the settings of the endpoint that [overrides](configuration.md#overrides) decide; `[]` without any",
    "own_traces": "traces in the hours of the slot itself",
    "own_windows": "number of these hours",
    "own_work_factor": "the service's own time per request in relation to healthy traces; `null` if unknown",
    "p50_ratio": "the duration divided by the baseline p50",
    "p50_seconds": "baseline p50",
    "p95_ratio": "the duration divided by the baseline p95",
    "p95_seconds": "baseline p95",
    "parts": "the largest parts of the extra time: of the named service, or of any",
    "past_runs": "number of past runs that the last ones are compared with",
    "pattern_factor": (
        "how many times its usual the endpoint takes at some minutes of the hour, by which the limit is "
        "raised there; 1 without such a pattern, and where the window does not touch it"
    ),
    "pattern_minutes": "these minutes of the hour, as `[from, to]`; `[]` without any",
    "peak_score": "the highest score so far",
    "plateau": "the duration at which slow calls end; `null` unless most do",
    "points": "the steps of a timeline, in time order without a gap",
    "pooled_hours": "the hours that the baseline is built from",
    "present": "whether the instant is now",
    "quantile": "0.5, 0.9 or 0.99; in `regression` 0.9, or 0.5 for the latency level: p20, median and p90 together",
    "quarantined": "whether the hour is kept out of the baseline",
    "raised_at_unix": "when the regression was found",
    "range": "as requested",
    "ratio": "the latency level, or the p90, in the last days relative to the weeks before",
    "reconstructed": "whether the incident was found in the history, where its cause is not known",
    "reference": "which time the healthy traces are from",
    "reference_share": "share of the healthy requests",
    "reference_traces": "healthy traces that were compared",
    "regressed": (
        "whether there is a regression; `null` if the last days cannot be compared with the weeks before, and "
        "for a past hour"
    ),
    "regression": (
        "the regression: the last days are slower than the same hours of the weeks before; `null` without "
        "one, and for a past hour"
    ),
    "requests": "requests that lost time",
    "retries": "whether the failed calls are tried again",
    "role": "`cause`, `victim` or `unexplained`",
    "root": "the explained span",
    "roots": "spans without a parent",
    "rrule": "rule by which a mark recurs; `null` for once",
    "run_seconds": "with `runs`: duration of each slow run, the median of its requests, in time order; otherwise `[]`",
    "run_thresholds": (
        "what the runs of an endpoint with little traffic must exceed; `null` unless it is evaluated by run"
    ),
    "samples": "traces pooled",
    "score": "strength of the shift; 1 is practically significant",
    "seconds": "a duration",
    "self_seconds": "how long the root waited for the span itself, without the spans below it",
    "sentence": "the result in words",
    "series": "the endpoints",
    "series_by_level": "number of endpoints at levels 1 to 5, from midnight on, by day type",
    "service_limit_ratio": "the ratio from which on a service as a whole is shifted; `null` while unknown",
    "service_name": "of the endpoint or span",
    "service_ratio": (
        "latency of the service as a whole relative to the usual: the median over its endpoints; `null` while unknown"
    ),
    "service_shift": "the shift of the service of an endpoint as a whole; `null` while it is not shifted",
    "services": "how long the root waited for each service; adds up to its duration",
    "severity": (
        "of an endpoint, what an override gives to the alerts about it: `critical`, `warning` or `info`; "
        "`null` without one. Of an incident `warning`, or `critical` once an endpoint was severely shifted"
    ),
    "share": "the same as a share of the root's duration; of a cause, its share of the extra time",
    "shift_cause": (
        "what is known about the cause of a shift, in short; `null` unless the flag is firing; of an endpoint "
        "of an incident what was found last, with the account, `null` where nothing is kept"
    ),
    "shift_thresholds": "what a shift must exceed; empty without a verdict, and if the endpoint is evaluated by run",
    "shifted": "whether the shift flag is firing; `null` without a verdict",
    "shifted_since_unix": "since when",
    "since_unix": (
        "since when: of a flag, what it is about; of `errors`, when too many requests began to fail; of time "
        "lost, the start of the shift, "
        "or of the exporter if that was later; of a cause, the start of the shift"
    ),
    "slot": "the slot: hour of the day and day type",
    "slots": "the 48 slots",
    "slow": "traces in the evaluation window above the limit; with `runs`, slow runs",
    "slow_calls": "calls that end at the duration of the plateau",
    "slow_trace_id": "a typical trace of the incident",
    "slower_seconds": "extra time because of longer calls",
    "slower_traces": "pooled traces that certainly took longer",
    "source": "where a mark is from: `configuration`, `file`, `api` or `alertmanager`",
    "source_ratio": "share of its usual traffic that the source had in the window, at most 1",
    "span_id": "of the span",
    "span_name": "of the endpoint or span",
    "spans": "number of spans in the trace",
    "stability": "share of the bootstrap replicates in which the service is first",
    "start_unix": "start of the hour, span, marked range, incident, point or timeline",
    "state": "the current state, the first that applies: see [Lists](#lists)",
    "step_seconds": "length of a point; one at a change of the UTC offset may be shorter",
    "stream_reason": "why an endpoint is a stream: `configured`, `name` or `durations`; `null` if it is none",
    "swing_error_ratio": "share of failed requests up to which bursts are tolerated, measured over five minutes",
    "swing_factor": "how far the quantile normally swings, as a multiplier",
    "tempo_requests": "requests to Tempo that it took",
    "test": (
        "which test these are the figures of: `window` (the evaluation window), `ladder` (a few of its "
        "requests, far above the limit), `long_window` (the last 30 minutes), `level` (against the half hour "
        "before), `tail` (the slowest requests of the last 30 or 60 minutes), `runs` (the last runs of an endpoint "
        "with little traffic)"
    ),
    "threshold_ratio": "the duration divided by the outlier threshold",
    "time_lost": (
        "what requests took beyond the usual p95 since the shift began; `null` unless the flag is firing, and "
        "of an incident that is `reconstructed`"
    ),
    "timezone": "as configured",
    "took_seconds": "how long it took",
    "total": "number of matching endpoints, on all pages",
    "total_requests": "requests in the time of a point, extrapolated where a sample was read; `null` while unknown",
    "trace_id": "32 hex digits",
    "traces": "number of traces",
    "traces_by_hour": "traces in the hours of each slot, by day type",
    "traffic": "current traffic against the usual; `null` while it is unknown and no flag about it is firing",
    "traffic_ratio": (
        "in the explanation of a shift: current traffic divided by the usual; from 2 on the sentence names it; `null` "
        "while unknown"
    ),
    "traffic_thresholds": (
        "what the traffic is compared with in that hour: the usual number of requests, the median of the pooled "
        "hours, and the one below which it is a drop; `null` while unknown"
    ),
    "unexplained": "number of endpoints of which it is not known why they are slow",
    "until_unix": "when the flag was resolved; `null` while it fires",
    "usual_requests": (
        "usual number of requests of the window, of a point, or in an hour of the slot; `null` while unknown"
    ),
    "usual_seconds": "alias of `baseline_seconds`",
    "value": "the value of a setting, as in the configuration",
    "version": "the version that appeared when a regression began, or that did not change; `null` if unknown",
    "version_before": "the version that most spans had before a regression began; `null` if unknown",
    "version_outcome": (
        "with which version a regression began: `appeared`, `same`, `no_version` (spans have none), `no_traces` (Tempo "
        "has none of that time) or `failed`; `null` while it was not looked for"
    ),
    "victim": "number of endpoints whose requests wait for the cause",
    "weekday": "of weekdays",
    "weekend": "of weekend days and holidays",
    "window_seconds": "length of the window",
    "windows": "hours pooled",
}
