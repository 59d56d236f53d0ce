"""One file per workload; `harness.plan.catalogue` names them."""
