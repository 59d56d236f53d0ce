"""Workloads, engines and the float64 truth they are held against. Knows nothing of clocks, files or tables."""
