"""The clocks: that blocks are timed by, and one that stands still while others have the core. Never imports torch."""

import time
from collections.abc import Callable

Clock = Callable[[], int]  # nanoseconds since some fixed moment

monotonic_ns: Clock = time.perf_counter_ns
thread_ns: Clock = time.thread_time_ns  # of the thread that asks
