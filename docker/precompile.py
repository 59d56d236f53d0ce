"""Write the bytecode of what a run imports, by importing it, and show that torch.compile works in the image.

Every case starts a fresh process, so imports count. Seen on two cores, with bytecode and without: torch 0.9
and 2.4 s, its compiler 1.6 and 4.2 s, pandas and scipy 0.6 and 1.9 s. It is 90 MB for these modules; for all
that are installed it would be half as much again, for nothing.
"""

import compileall
from pathlib import Path

import pandas as pd
import rich.console
import scipy.stats
import torch

import harness

compileall.compile_dir(Path(harness.__file__).parent, quiet=1)
rich.console.Console().print(pd.DataFrame({"needed": [scipy.stats.t.ppf(0.975, 3)]}))
squares = torch.compile(lambda x: (x * x).sum())
squares(torch.ones(8, requires_grad=True)).backward()
