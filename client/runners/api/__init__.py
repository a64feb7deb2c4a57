"""What the socket says: the states, the reason codes and the shapes both sides of it agree on.

states.py     where a job is, and the codes of why
jobs.py       a job, its attempts and its events
forecast.py   when a job is expected to start, and what a change would do
telemetry.py  what was measured while an attempt ran
machine.py    the cards, who has booked them, the daemon; and `status`, which has it all
past.py       who held which cards when, and what that adds up to

Import them from here. Times are Unix seconds as floats, sizes bytes, durations seconds, utilisation 0 to 100; a number
not known is null.
"""

from __future__ import annotations

from .forecast import AdviceView, AheadJobView, AheadView, EffectView, ForeseenView
from .jobs import AttemptView, EventView, IntruderView, JobDetailView, JobView, XidView
from .machine import BookingView, DaemonView, DrainView, GpuProcessView, GpuView, KeptView, NearView, StatusView
from .past import (
    CardChangeView,
    HistoryView,
    PastAttemptView,
    PastIntruderView,
    PastJobView,
    UsageRow,
    UsageSums,
    UsageView,
)
from .states import LIVE, SETTLED, WAITING, Code, JobState, ReasonView
from .telemetry import (
    CardSeriesView,
    CardSummaryView,
    MeasureView,
    ProcessSeriesView,
    ProcessSummaryView,
    SummaryView,
    TelemetryView,
)

__all__ = [
    "LIVE",
    "SETTLED",
    "WAITING",
    "AdviceView",
    "AheadJobView",
    "AheadView",
    "AttemptView",
    "BookingView",
    "CardChangeView",
    "CardSeriesView",
    "CardSummaryView",
    "Code",
    "DaemonView",
    "DrainView",
    "EffectView",
    "EventView",
    "ForeseenView",
    "GpuProcessView",
    "GpuView",
    "HistoryView",
    "IntruderView",
    "JobDetailView",
    "JobState",
    "JobView",
    "KeptView",
    "MeasureView",
    "NearView",
    "PastAttemptView",
    "PastIntruderView",
    "PastJobView",
    "ProcessSeriesView",
    "ProcessSummaryView",
    "ReasonView",
    "StatusView",
    "SummaryView",
    "TelemetryView",
    "UsageRow",
    "UsageSums",
    "UsageView",
    "XidView",
]
