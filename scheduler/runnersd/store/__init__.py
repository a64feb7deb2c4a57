"""What the daemon remembers: rows on disk, the unsettled jobs in memory. The only package that speaks SQL.

record(event) ──► memory at once ──► Batch ──► writer thread: one transaction ──► waiters, subscribers
"""

from runnersd.store.feed import EventRecord, Subscription
from runnersd.store.store import Store

__all__ = ["EventRecord", "Store", "Subscription"]
