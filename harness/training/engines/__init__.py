"""One file per engine; `harness.plan.catalogue` names them."""
