"""One case in, one record out: clocks, sampling, probes and the worker process."""
