"""The clock that blocks are timed by. Never imports torch."""

import time
from collections.abc import Callable

Clock = Callable[[], int]  # nanoseconds since some fixed moment

monotonic_ns: Clock = time.perf_counter_ns
