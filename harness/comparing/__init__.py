"""Pure functions: tables in, verdicts out."""
