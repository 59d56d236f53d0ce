"""Gradients derived by hand, each with one real mistake; `harness.plan.mistakes` names them and says what is wrong."""
