"""Texts of the status page, of its table of endpoints and of its frame, in Traditional Chinese as used in Taiwan."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import duration
from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.detection.streams import StreamReason
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import HistoryFacts, SeriesStatus, ServiceStatus
from exporter.explain.words import SHORT_SECONDS, coarse_parts
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.ledger import LedgerProgress
from exporter.model.span import FOLDED_NAME
from exporter.web.pages.formatting import Times, floored_percent, joined, name_element
from exporter.web.pages.status_words import StatusWords

_UNITS: Final = {"d": "天", "h": "小時", "min": "分鐘", "s": "秒"}
_WEEKDAYS: Final = "一二三四五六日"


class TraditionalChineseWords(StatusWords):
    """The texts in Traditional Chinese."""

    language = "zh-TW"
    navigation: ClassVar[Mapping[str, str]] = {
        "incidents": "事故",
        "metrics": "指標",
        "-/ready": "就緒",
        "-/healthy": "健康",
    }

    def version(self, number: str) -> str:
        """Name the version of the exporter."""
        return f"版本 {number}"

    def in_english(self, sentence: str) -> h.Node:
        """Mark a sentence that is English in any language."""
        return h.span(lang="en")[sentence]

    def coarse_duration(self, seconds: float) -> str:
        """Format a duration of seconds to days."""
        return " ".join(f"{count} {_UNITS[unit]}" for count, unit in coarse_parts(seconds))

    def amount_of_time(self, seconds: float) -> str:
        """Format a sum of durations."""
        return duration(seconds) if seconds < SHORT_SECONDS else self.coarse_duration(seconds)

    def ago(self, age: str) -> str:
        """Format an age."""
        return f"{age}前"

    def in_brackets(self, text: str) -> str:
        """Put a text behind another one, in brackets."""
        return f"（{text}）"

    def full_instant(self, local: datetime) -> str:
        """Format an instant with the day of the week."""
        return f"{local:%Y-%m-%d}（{_weekday(local)}）{local:%H:%M:%S %Z}"

    levels: ClassVar[Mapping[FallbackLevel, str]] = {
        FallbackLevel.EXACT: "這個時段",
        FallbackLevel.NEARBY: "鄰近時段",
        FallbackLevel.DAYTYPE: "同日別",
        FallbackLevel.GLOBAL: "全部歷史",
        FallbackLevel.UNAVAILABLE: "無法取得",
    }
    stream_titles: ClassVar[Mapping[StreamReason, str]] = {
        StreamReason.CONFIGURED: "依 series.streams 為串流：不判定它的延遲",
        StreamReason.NAME: "依名稱為串流：不判定它的延遲",
        StreamReason.DURATIONS: "依持續時間為串流：不判定它的延遲",
    }
    marked_title = "目前沒有判定：這段時間已標記為預期或正常"
    disabled_title = "只計算它的追蹤數：有一項 override 設定了 enabled: false"
    regression_title = "最近幾天比之前幾週慢"
    traffic_title = "流量與這個時段平常的不同"

    def errors_summary(self, status: SeriesStatus, times: Times) -> h.Node:
        """Say how many requests fail, and whether that is usual; None while failures are unknown."""
        found = status.of_kind(FlagKind.ERRORS)
        if found.firing:
            since = found.since is not None and h.fragment["自 ", times.since(found.since), "起，"]
            evidence = found.explanation is not None and self.in_english(str(found.explanation))
            return h.fragment[since, "失敗的請求遠比平常多。", evidence]
        if status.current_error_ratio is None or status.baseline_error_ratio is None:
            return None
        return f"{percent(status.current_error_ratio)} 的請求失敗，平常是 {percent(status.baseline_error_ratio)}。"

    status = "狀態"
    not_read_yet = "尚未讀取目前的流量"
    log_has_details = "詳情請見 exporter 的日誌。"
    anomalous_now = "目前異常"
    unknown_unread = "尚無法得知：還沒有讀取目前的流量。"
    unknown_baselines = "尚無法得知：這個時段的基準線還在計算。"
    unknown_history = "尚無法得知：沒有任何端點有足夠的歷史可供判定。"
    unknown_no_traces = "尚無法得知：沒有任何端點送出追蹤。"
    the_account = "成因分析"
    time_lost_title = "所有請求超出平常 p95 的時間"
    lasts_unknown_baselines = "這個時段的基準線還在計算，因此無法得知移動是否持續。"
    lasts_unknown_tempo = "無法讀取 Tempo，因此無法得知移動是否持續。"
    lasts_until_clear = "最近一次評估沒有看到移動；如果持續如此，旗標就會解除。"
    total_endpoints = "端點"
    total_without_baseline = "沒有基準線"
    history = "歷史"
    history_read = "已讀取的歷史"
    backfill_disabled = "回填已停用：基準線只使用已經儲存的歷史。"
    complete = "完成"
    window_states: ClassVar[Sequence[tuple[str, str, str]]] = (
        ("done", "已讀取", "已完整讀取；如果時窗太密集，則讀取樣本"),
        ("empty", "沒有追蹤", "Tempo 沒有這段時間的追蹤"),
        ("partial", "部分讀取", "有些追蹤無法讀取"),
        ("failed", "失敗", "無法讀取；將會重試"),
        ("expired", "已過期", "早於 Tempo 最舊的追蹤"),
        ("pending", "待讀取", "尚未讀取"),
    )

    def status_title(self, anomalous: int) -> str:
        """Return the title of the status page."""
        return f"({anomalous:,}) 目前異常" if anomalous else self.status

    def watching(self, tempo_url: str, evaluated: h.Node) -> h.Node:
        """Say which Tempo is read, and when it was last."""
        return h.fragment["監看 ", h.code[tempo_url], " · ", evaluated]

    def last_evaluation(self, evaluated_at: float | None, times: Times) -> h.Node:
        """Say when current traffic was last evaluated."""
        if evaluated_at is None:
            return self.not_read_yet
        return h.fragment[times.age(evaluated_at), "評估，頁面產生於 ", times.at(times.now)]

    def tempo_unreadable(self, error: str, evaluated_at: float | None, interval_seconds: float, times: Times) -> h.Node:
        """Say that Tempo cannot be read, and what to do."""
        consequence = (
            "還沒有做過任何評估。"
            if evaluated_at is None
            else f"在能夠再次讀取之前，旗標維持 {times.age(evaluated_at)}的狀態。"
        )
        return h.fragment[
            h.strong["無法讀取 Tempo。"],
            f"{consequence}exporter 每 {self.coarse_duration(interval_seconds)}重試一次。",
            h.p[h.code[error]],
            h.p(".quiet")[
                "請確認 Tempo 正在執行，而且 ",
                h.code["tempo.url"],
                f" 是它的 HTTP API 位址。{self.log_has_details}",
            ],
        ]

    def out_of_date(self, interval_seconds: float) -> h.Node:
        """Say that the page is out of date."""
        return h.fragment[
            h.strong["這個頁面已經過時。"],
            f"目前的流量應該每 {self.coarse_duration(interval_seconds)}讀取一次，但讀取太慢或已經停止。",
            self.log_has_details,
        ]

    def nothing_found(self, lag_seconds: float | None) -> h.Node:
        """Say that current traffic is not found, and what to do."""
        found = (
            "" if lag_seconds is None else f"追蹤結束之後約 {self.coarse_duration(lag_seconds)}，才能在 Tempo 找到。"
        )
        return h.fragment[
            h.strong["找不到目前的流量。"],
            f"可以讀取 Tempo，但平常的流量現在幾乎都沒有出現。{found}",
            "因此沒有判定，旗標維持原狀。",
            h.p(".quiet")[
                "如果追蹤很晚才能搜尋到，請調高 ",
                h.code["polling.tempo_lookback"],
                f"；否則請檢查追蹤是否送達 Tempo，以及各處的時鐘。{self.log_has_details}",
            ],
        ]

    def without_baselines(self) -> h.Node:
        """Say that the baselines are not ready."""
        return h.fragment[h.strong["這個時段的基準線還在計算。"], "在完成之前沒有判定，旗標維持原狀。"]

    def only_some_cards(self, shown: int) -> str:
        """Say that not all anomalous endpoints have a card."""
        return f"以上是損失時間最多的 {shown} 個。"

    def show_all_anomalous(self, number: int) -> str:
        """Name the link to all anomalous endpoints."""
        return f"顯示全部 {number:,} 個"

    def nothing_anomalous(self, without_verdict: int) -> str:
        """Say that no endpoint is anomalous, and how many have no verdict yet."""
        rest = f"{without_verdict:,} 個端點還沒有判定。" if without_verdict else ""
        return f"沒有端點比平常慢。{rest}"

    def now_and_usual(self, current_seconds: float, usual_seconds: float) -> h.Node:
        """Compare a latency with the usual one."""
        return h.fragment["目前 ", h.b[duration(current_seconds)], f"，平常 {duration(usual_seconds)}"]

    def since(self, instant: float, times: Times) -> h.Node:
        """Say since when, and for how long."""
        return h.fragment["自 ", times.since(instant), "起"]

    def time_lost(self, lost: TimeLost, times: Times, *, names_beginning: bool) -> h.Node:
        """Say what requests lost since a shift began, and since when that was counted."""
        text = f"{lost.requests:,} 個請求損失 {self.amount_of_time(lost.seconds)}"
        return h.fragment[names_beginning and h.fragment["自 ", times.at(lost.since), " 起 "], h.b[text]]

    def error_share(self, ratio: float) -> str:
        """Say how many requests fail, in short."""
        return f"錯誤 {percent(ratio)}"

    def example_trace(self, seconds: float) -> str:
        """Name a link to a trace."""
        return f"一筆 {duration(seconds)} 的追蹤"

    def folded_services(self, services: Sequence[str], others: int) -> h.Node:
        """Name the services whose further span names share one series."""
        return h.fragment[
            "span 名稱超過 ",
            h.code["series.max_per_service"],
            " 的上限：",
            joined([h.code[name_element(service)] for service in services], "、"),
            f" 與另外 {others:,} 個服務" if others > 0 else None,
            "的其餘名稱共用端點 ",
            h.code[FOLDED_NAME],
            "。日誌裡有例子。",
        ]

    def progress_percent(self, progress: LedgerProgress) -> str:
        """Say how much of the history is read."""
        return self.complete if progress.complete else floored_percent(progress.ratio)

    def windows_done(self, status: BackfillStatus) -> h.Node:
        """Say how many windows of history are read, by state."""
        progress = status.progress
        done = progress.windows - progress.pending - progress.failed
        states = [
            h.span(title=title)[f"{label} {getattr(progress, state):,}"]
            for state, label, title in self.window_states
            if getattr(progress, state)
        ]
        return h.fragment[
            f"已處理 {done:,} 個時窗，共 {progress.windows:,} 個。依狀態：",
            joined(states, "、"),
            "。",
            progress.coverage is not None and f"讀取了其中 {floored_percent(progress.coverage)} 的追蹤。",
            status.late_windows > 0 and f"{status.late_windows:,} 個時窗可能缺少較晚才結束的請求：會再檢查一次。",
        ]

    def history_failure(self, error: str) -> h.Node:
        """Say that part of the history cannot be read."""
        return h.fragment[h.strong["部分歷史無法讀取。"], "exporter 會重試。最近一次錯誤：", h.code[error]]

    def stored_history(self, history: HistoryFacts, times: Times) -> h.Node:
        """Say what is stored."""
        return h.fragment[
            f"已儲存 {history.traces:,} 筆追蹤，分屬 {history.windows:,} 個時窗",
            history.oldest_trace_at is not None and h.fragment["，最舊的在 ", times.at(history.oldest_trace_at)],
            history.storage_bytes is not None and f"，占用 {history.storage_bytes / 1e6:,.1f} MB",
            "。",
            bool(history.quarantined_windows) and f"{history.quarantined_windows:,} 個異常的小時不納入基準線。",
        ]

    def run_verify(self) -> h.Node:
        """Say how to check whether the history is enough."""
        return h.fragment["要檢查歷史是否足夠，請執行 ", h.code["tempo-anomaly-exporter verify"]]

    endpoints = "端點"
    no_endpoints = "還沒有：讀到端點的第一批追蹤後，它就會出現。"
    no_match = "沒有符合的端點。"
    show_all = "顯示全部"
    filter_button = "篩選"
    filter_placeholder = "服務或端點"
    state_filter = "狀態"
    level_filter = "基準線"
    any_level = "任何基準線"
    pages = "分頁"
    plot_alt = "各時段的基準線"
    states: ClassVar[Mapping[str, str]] = {
        "": "任何狀態",
        "anomalous": "異常",
        "shift": "延遲移動",
        "errors": "錯誤過多",
        "traffic": "流量不尋常",
        "regression": "比以前慢",
        "outlier": "有離群值",
        "learning": "學習中",
        "stream": "串流",
    }
    columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "name": ("端點", "服務與 span 的名稱"),
        "plot": ("24 小時", "這個日別各時段的基準線，從 p50 到 p95；圓點是目前的 p95"),
        "p50": ("p50", "目前的中位數，以及基準線的中位數"),
        "p95": ("p95", "目前的第 95 百分位數，以及基準線的"),
        "ratio": ("× 平常", "目前的 p95 除以基準線的 p95"),
        "errors": ("錯誤", "評估時窗內失敗請求的比例，以及平常的比例"),
        "traffic": ("流量", "請求數除以這個時段平常的數量"),
        "traces": ("追蹤", "評估時窗內的請求數"),
        "lost": ("損失", "移動開始以來，請求超出平常 p95 的時間"),
        "score": ("分數", "移動的強度；從 1 起是顯著的"),
        "level": ("基準線", "基準線的退回層級：1 這個時段 … 5 無法取得"),
    }
    cells: ClassVar[Mapping[str, str]] = {
        "p50": "p50",
        "p95": "p95",
        "ratio": "× 平常",
        "errors": "錯誤",
        "traffic": "流量",
        "traces": "追蹤",
        "lost": "損失",
    }
    anomalous_badge = "異常"
    errors_badge = "錯誤"
    outliers_badge = "離群值"
    regression_badge = "比以前慢"
    traffic_badge = "流量不尋常"
    learning_badge = "學習中"
    disabled_badge = "不判定"
    marked_badge = "已標記"
    stream_badge = "串流"

    def traces(self, number: int) -> str:
        """Say how many traces a baseline has."""
        return f"{number:,} 筆追蹤"

    def any_value(self, label: str) -> str:
        """Name the choice of any value of a label."""
        return f"任何 {label}"

    def endpoints_count(self, number: int) -> str:
        """Say how many endpoints match."""
        return f"{number:,} 個端點"

    def page_position(self, first: int, last: int, total: int) -> str:
        """Say which rows a page of the table shows."""
        return f"第 {first:,}–{last:,} 個，共 {total:,} 個"

    first_page = "« 第一頁"
    previous_page = "‹ 上一頁"
    next_page = "下一頁 ›"
    last_page = "最後一頁 »"
    kinds: ClassVar[Mapping[FlagKind, str]] = {
        FlagKind.SHIFT: "延遲",
        FlagKind.ERRORS: "錯誤",
        FlagKind.TRAFFIC: "流量",
    }
    last_day = "最近 24 小時的旗標"

    def further_endpoints(self, number: int) -> str:
        """Say how many endpoints are left out."""
        return f"以及另外 {number:,} 個端點"

    def flag(self, period: FlagPeriod, times: Times) -> str:
        """Describe a time in which a flag fired."""
        since = times.local(period.since)
        until = "現在" if period.until is None else f"{times.local(period.until):%H:%M}"
        return f"{self.kinds[period.kind]}：{_weekday(since)} {since:%H:%M} 至 {until}"

    def traffic(self, status: SeriesStatus) -> h.Node:
        """Return the sentence about the traffic of a series whose flag about it fires; None unless it does."""
        flag, current = status.of_kind(FlagKind.TRAFFIC), status.current_traffic
        if not flag.firing:
            return None
        if current is None:
            return f"{self.traffic_title}。"
        return h.fragment["流量：", self.in_english(str(current.verdict.evidence))]

    def service_shift(self, service: ServiceStatus, times: Times) -> h.Node:
        """Say that a service as a whole is slower than usual."""
        since = service.since is not None and h.fragment["（", self.since(service.since, times), "）"]
        verdict = service.verdict
        if verdict is None or verdict.ratio < 1:
            return h.fragment["整個服務比平常慢", since, "。"]
        return h.fragment[
            "整個服務比平常慢",
            since,
            f"：{verdict.endpoints} 個有流量的端點，耗時的中位數是平常的 {verdict.ratio:.2f} 倍。",
        ]


def _weekday(local: datetime) -> str:
    return f"週{_WEEKDAYS[local.weekday()]}"


TRADITIONAL_CHINESE: Final = TraditionalChineseWords()
