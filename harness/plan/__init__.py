"""What is to be measured: cases, sweeps and the catalogue. Standard library only; works without torch."""
