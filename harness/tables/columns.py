"""Every column of every table, described once: name, unit, meaning.

`python -m harness.tables.columns` puts them into the documents that show them.

Columns are only ever added. A change of meaning is a new name; a change that old readers cannot bear raises SCHEMA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCHEMA = 1


@dataclass(frozen=True)
class Column:
    """unit: `ns`, `s`, `bytes`, `1/s`, `MHz`, `°C`, `W`, `J`, `count`, `share` (0 to 1), `ratio`, `text`, or empty."""

    name: str
    unit: str
    meaning: str


_CASE = (
    Column("workload", "text", "what is trained"),
    Column("engine", "text", "how its gradients are got and its updates made"),
    Column("device", "text", "`cpu` or `cuda[:N]`"),
    Column("dtype", "text", "of parameters and data, which are float32 where products are tf32 or bfloat16"),
    Column("batch_size", "count", "points per update"),
    Column("threads", "count", "torch's intra-op threads, as it ran"),
)
_RUN = (
    Column("schema", "count", "number of this table layout"),
    Column("case_id", "text", "stable name of the case"),
    Column("run_id", "text", "name of the run's folder"),
    Column("commit", "text", "of the repository in which the user stood, or of the image"),
    Column("dirty", "", "whether tracked files differed from the commit"),
    Column("machine", "text", "slug of the hardware"),
    Column("fingerprint", "text", "equal where two runs may be compared"),
)
# What a comparison asks for besides: it works on two CSV files alone.
_COMPARED = (
    Column("session", "text", "the same where runs were measured in turn, round by round; else that of the run alone"),
    Column("workload_digest", "text", "equal where the same is trained: model, loss, learning rate, seed 0's data"),
    Column("environment", "text", "what the fingerprint is made of: `key=value; …`"),
)

_RANKS = (
    Column("ranks", "count", "processes that train together, each on its share of every batch"),
    Column("batch_per_rank", "count", "points per update and rank"),
)

_MEMBERS = Column(
    "members", "count", "models that a call trains at once; an update is that of one of them, except in `latency_ns`"
)
# Of the first round.
_FLOOR = (
    Column("flops_per_step", "", "floating-point operations of an update's matrix products, by torch's flop counter"),
    Column("bytes_per_step", "bytes", "that must move in an update: its batch read, every weight read and written"),
    Column("calls_per_step", "", "calls of functions that Python makes for an update; CPU, without compiled graphs"),
    Column(
        "one_point_ns",
        "ns",
        "an update of the same engine on a batch of one point; as above, and empty if that is much work",
    ),
    Column("ceiling_flops_per_s", "1/s", "of this machine: large matrix products in this dtype with so many threads"),
    Column(
        "ceiling_copy_bytes_per_s",
        "1/s",
        "of this machine: bytes that copies, or reading alone where faster, move with this working set or a larger one",
    ),
    Column("ceiling_launch_ns", "ns", "of this machine: the shortest launch of a kernel, many in a row"),
    Column("ceiling_call_ns", "ns", "of this machine: the shortest call into torch from Python"),
)

PHASES = {
    "start": "until the interpreter runs",
    "import": "importing torch",
    "setup": "data, model and engine",
    "first_call": "the first update, with whatever it compiles",
    "gate": "twenty checked updates",
    "timing": "pilot, warm-up, blocks and what lies between them, latency",
    "gate_after": "checking the timed blocks",
    "convergence": "training from every seed",
    "end": "what is checked last",
    "floor": "ceilings of the machine, and the work of an update; in the first round",
    "exit": "until the process has ended",
}

MEASUREMENTS = (
    *_CASE,
    Column("round", "count", "pass over all cases, from 0; each case in a fresh process"),
    Column("outcome", "text", "how the process ended; only `ok` carries a time"),
    Column("reason", "text", "why, where it is not `ok`"),
    Column("step_ns", "ns", "time of one update: 25 % quantile of the undisturbed blocks"),
    Column("step_median_ns", "ns", "the same, median"),
    Column("step_min_ns", "ns", "the same, minimum"),
    Column("blocks", "count", "blocks timed"),
    Column("blocks_disturbed", "count", "of these, during which something else took part of the machine"),
    Column("disturbances", "text", "what it was and how often: `preempted 3, stolen 1`"),
    Column("block_steps", "count", "updates per block, of all members together"),
    Column(
        "stop_rule",
        "text",
        "what ended the timing: `relative_width` of the interval, its `plateau`, the time `budget`, or `disturbed` "
        "where too many blocks had to be timed again",
    ),
    Column("clock_ratio", "ratio", "a block's time by the parent's clock, messages included, over the worker's"),
    Column("latency_ns", "ns", "one update of all members from its call until the device has done it; 25 % quantile"),
    Column("device_ns", "ns", "one update on the GPU by events, queued beforehand: without the host's gaps"),
    Column("kernel_ns", "ns", "sum of the kernels of one update, by the profiler"),
    Column("kernels_per_step", "", "kernels, copies and fills on the GPU per update"),
    Column("launches_per_step", "", "calls of the host that put work on the GPU, per update"),
    Column("graph_launches_per_step", "", "of these, replays of a captured graph"),
    Column("energy_per_step_j", "J", "of the whole GPU, by its counter over all timed blocks"),
    Column("peak_allocated_bytes", "bytes", "most GPU memory in tensors while timed"),
    Column("peak_reserved_bytes", "bytes", "most GPU memory held by torch while timed"),
    Column("sm_clock_mhz", "MHz", "clock of the GPU's multiprocessors after timing"),
    Column("gpu_temperature_c", "°C", "after timing"),
    Column("power_limit_w", "W", "the GPU's power cap"),
    Column("gpu_processes", "count", "processes computing on the GPU after timing, this one included"),
    Column("device_note", "text", "why there is no time of the device"),
    Column("cpus", "text", "CPUs that the process was pinned to"),
    Column("core_ns", "ns", "a fixed piece of work on the core, where it was fast; compares cores, not engines"),
    Column("core_work", "text", "what that work was: equal where two `core_ns` may be compared"),
    Column(
        "attempts",
        "count",
        "how often it was begun; above 1 where it was disturbed throughout, interrupted, or its machine lost",
    ),
    Column("node", "text", "which machine of a cluster, as Ray names it; all cases that are compared have the same"),
    Column("import_ns", "ns", "importing torch"),
    Column("setup_ns", "ns", "making data, model and engine"),
    Column("first_call_cold_ns", "ns", "first update where something had to be compiled"),
    Column("first_call_warm_ns", "ns", "first update where nothing had, or all came from the run's compile cache"),
    Column("gate_share", "share", "largest gradient error seen, of the limit that rounding sets"),
    Column("graphs", "count", "compiled graphs"),
    Column("graph_breaks", "count", "graph breaks"),
    Column("recompiles", "count", "recompilations"),
    Column("minor_faults_per_step", "", "page faults per update while timed"),
    Column("peak_rss_bytes", "bytes", "most resident memory of the process"),
    Column("seconds", "s", "the whole process"),
    Column("timed_ns", "ns", "in timed blocks"),
    *_FLOOR,
    *_RANKS,
    _MEMBERS,
    *(Column(f"phase_{name}_ns", "ns", f"by the parent's clock: {meaning}") for name, meaning in PHASES.items()),
    *_RUN,
    *_COMPARED,
)

CONVERGENCE = (
    *_CASE,
    Column("seed", "count", "seed of data, weights and shuffles"),
    Column("updates", "count", "SGD updates made"),
    Column("loss", "", "over all points trained on after the last update; empty if not finite"),
    Column("accuracy", "share", "of the same points; of those held out, where the workload holds some out"),
    Column("r2", "", "1 - residual over total sum of squares, of the points of `accuracy`; empty for classes"),
    Column("converged", "", "loss and accuracy within the workload's bounds"),
    Column(
        "epochs_to_target",
        "count",
        "first epoch after which it was; empty if none, or where only the end was looked at",
    ),
    *_RUN,
)

SUMMARY = (
    *_CASE,
    Column("outcome", "text", "`ok`, or the first other outcome of its rounds; `not_converged` by the targets"),
    Column("reason", "text", "why, where it is not `ok`"),
    Column("targets_met", "text", "`yes`, `no` or `undecided`; empty where none could be judged"),
    Column("step_ns", "ns", "time of one update: exp of the mean log of the rounds' step times"),
    Column("step_ns_low", "ns", "95 % t-interval on the logs, low end"),
    Column("step_ns_high", "ns", "high end"),
    Column("samples_per_s", "1/s", "points trained on per second, by all members together"),
    Column("ratio_to_autograd", "ratio", "autograd's step time over this one, paired by round; above 1 is faster"),
    Column("ratio_low", "ratio", "95 % t-interval on the logs, low end"),
    Column("ratio_high", "ratio", "high end"),
    Column("loss_p05", "", "5 % quantile of the final loss over seeds"),
    Column("loss_p50", "", "median"),
    Column("loss_p95", "", "95 % quantile"),
    Column("accuracy_p50", "share", "median of the final accuracy over seeds"),
    Column("converged_share", "share", "of seeds converged"),
    Column("converged_low", "share", "95 % Wilson interval, low end"),
    Column("converged_high", "share", "high end"),
    Column("rounds", "count", "rounds measured"),
    Column("seeds", "count", "seeds trained"),
    Column("r2_p50", "", "median of R² over seeds"),
    Column("epochs_to_target_p50", "", "median over the seeds that reached it"),
    Column("import_ns", "ns", "median over rounds"),
    Column("setup_ns", "ns", "median over rounds"),
    Column("first_call_cold_ns", "ns", "of the round that compiled"),
    Column("first_call_warm_ns", "ns", "median over the other rounds"),
    Column("disturbed_share", "share", "of all timed blocks"),
    Column("disturbances", "text", "what disturbed how many of them"),
    Column("latency_ns", "ns", "one update of all members until the device has done it; median over rounds"),
    Column("device_ns", "ns", "one update on the GPU, without the host's gaps; median over rounds"),
    Column("kernels_per_step", "", "on the GPU; median over rounds"),
    Column("launches_per_step", "", "by the host; median over rounds"),
    Column("energy_per_step_j", "J", "of the GPU; median over rounds"),
    Column("peak_allocated_bytes", "bytes", "most over rounds"),
    Column("peak_reserved_bytes", "bytes", "most over rounds"),
    Column("cpus", "text", "CPUs that the processes were pinned to"),
    Column("attempts", "count", "most over rounds"),
    Column("gate_share", "share", "largest over rounds"),
    Column("graphs", "count", "compiled graphs per process"),
    Column("graph_breaks", "count", "most over rounds"),
    Column("recompiles", "count", "most over rounds"),
    Column("peak_rss_bytes", "bytes", "most over rounds"),
    Column("targets", "text", "every target with what was measured"),
    *_RANKS,
    Column(
        "scaling_efficiency",
        "ratio",
        "strong scaling: the same engine's step time with one rank over ranks × this one, at the same `batch_size` and "
        "with as many threads each, paired by round; 1 is ideal, empty for one rank",
    ),
    Column("scaling_low", "ratio", "95 % t-interval on the logs, low end"),
    Column("scaling_high", "ratio", "high end"),
    _MEMBERS,
    Column(
        "floor_ns",
        "ns",
        "what an update takes at least on this machine, whatever the engine: the larger of `flops_per_step` and "
        "`bytes_per_step`, each over the best ceiling that this run measured on this machine",
    ),
    Column("above_floor", "ratio", "`step_ns` over `floor_ns`"),
    Column(
        "bound_by",
        "text",
        "what explains at least half of `step_ns`: `arithmetic` or `bandwidth` at the machine's ceiling; `python`: "
        "calls from Python, as for one point; on a GPU that waits, `launch` or `python`; else empty",
    ),
    *_RUN,
    *_COMPARED,
)

_ALARMS = (
    ("ratio_2", "means more than 2 % apart"),
    ("ratio_5", "means more than 5 % apart"),
    ("welch", "Welch's p < 0.05"),
    ("rule", "the rule of verdicts, unpaired"),
    ("paired_rule", "the rule of verdicts, paired"),
    ("baseline", "missed by the rule of `--baseline`"),
)

NOISE = (
    *_CASE,
    Column("rounds", "count", "rounds measured"),
    Column("spread", "", "between processes: 1.4826 MAD of the log step times; 0.01 is 1 %. Of 20, good to a quarter"),
    Column("drift", "", "change of the step time over the run, Theil–Sen; 0.01 is 1 % slower at its end"),
    Column("drift_low", "", "95 % interval, low end"),
    Column("drift_high", "", "high end"),
    Column("autocorrelation", "", "of the clipped log step times of neighbouring rounds"),
    Column(
        "clock_left", "ratio", "of the spread of pairs, what is left without the core's clock; 1 where it stays in them"
    ),
    Column("disturbed_share", "share", "of all timed blocks"),
    Column("least_with_3_rounds", "", "smallest slowdown that 3 rounds a side see with 95 % power, unpaired"),
    *(
        Column(
            f"rounds_for_{percent}",
            "count",
            f"rounds a side whose paired test finds {percent} % with 95 % power, in a table of 26 cases and where the "
            "core's clock can be taken out as here; empty if over 200",
        )
        for percent in (2, 3, 5, 10)
    ),
    *(
        Column(f"{rule}_{part}", "share", text)
        for rule, alarm in _ALARMS
        for part, text in (
            ("alarm_share", f"false alarms between random halves of the run: {alarm}"),
            ("table_share", "the same of any case of the table, equal in every row"),
        )
    ),
    *_RUN,
)

_OVER_SEEDS = ("loss_p05", "loss_p50", "loss_p95", "accuracy_p50", "converged_share")

MISTAKES = (
    *_CASE,
    Column("kind", "text", "`right`, `finite differences`, or a `mistake` in gradients derived by hand"),
    Column("what", "text", "what is wrong with it"),
    Column("outcome", "text", "`ok` where it was looked at, whatever was found"),
    Column("reason", "text", "why, where it is not `ok`"),
    Column("gate_seeds", "count", "seeds whose first twenty updates went through the gate"),
    Column("caught_seeds", "count", "of these, caught"),
    Column("caught_update", "", "the first wrong update, from 1; median over the seeds caught"),
    Column("caught_by", "text", "what was furthest off in it, a parameter or `loss`; most frequent"),
    Column("error_over_limit", "ratio", "its error over what rounding may do; median over the seeds caught"),
    Column("gate_share", "share", "largest error, of the limit, of the seeds that were not caught"),
    Column(
        "update_error",
        "ratio",
        "an update's distance from float64's, from the same weights, over its length; the largest of the first three, "
        "median over 20 seeds",
    ),
    *(column for column in SUMMARY if column.name in ("seeds", *_OVER_SEEDS, "converged_low", "converged_high")),
    Column("diverged_share", "share", "of seeds whose final loss is no finite number"),
    Column("same_share", "share", "of seeds that end with the very loss of `autograd`, bit for bit"),
    Column("loss_ratio", "ratio", "median of the final loss over that of `autograd` from the same seeds"),
    Column("targets_met", "text", "the workload's targets of convergence: `yes`, `no` or `undecided`"),
    Column("targets", "text", "every target with what was found"),
    Column("trains_anyway", "text", "`yes` for a mistake that meets them: nothing but a check of its gradients tells"),
    Column("forward_passes", "count", "per update"),
    Column("ratio_to_autograd", "ratio", "autograd's time of an update over this one, taken in turn beside other work"),
    Column("seconds", "s", "the whole process"),
    *_RUN,
)

EPOCHS = (
    *_CASE,
    Column("epoch", "count", "passes over the data made, from 1"),
    Column("seeds", "count", "seeds trained"),
    Column("loss_p05", "", "5 % quantile over seeds of the loss over the whole data set"),
    Column("loss_p50", "", "median"),
    Column("loss_p95", "", "95 % quantile"),
    Column("accuracy_p50", "share", "median over seeds"),
    Column("converged_share", "share", "of seeds within the workload's bounds"),
    *_RUN,
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "measurements": MEASUREMENTS,
    "convergence": CONVERGENCE,
    "summary": SUMMARY,
    "noise": NOISE,
    "mistakes": MISTAKES,
    "epochs": EPOCHS,
}


DOCUMENTS: Mapping[str, tuple[str, ...]] = {
    "docs/columns.md": ("summary", "measurements", "convergence", "noise", "mistakes", "epochs"),
}


def column_table(table: str) -> str:
    """Return the Markdown table that describes the columns of one table."""
    rows = [f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in TABLES[table]]
    return "\n".join(["| column | unit | meaning |", "| --- | --- | --- |", *rows])


def with_column_tables(text: str, tables: Sequence[str]) -> str:
    """Return a Markdown text with the column tables between `<!-- columns NAME -->` and `<!-- /columns -->`.

    Raises ValueError when it has no marker for a table.
    """
    for table in tables:
        begin, end = f"<!-- columns {table} -->\n", "<!-- /columns -->"
        before, marker, rest = text.partition(begin)
        if not marker or end not in rest:
            raise ValueError(f"the text has no place for the columns of {table}")
        text = f"{before}{begin}\n{column_table(table)}\n\n{rest[rest.index(end) :]}"
    return text


if __name__ == "__main__":
    for name, parts in DOCUMENTS.items():
        document = Path(name)
        document.write_text(with_column_tables(document.read_text("utf-8"), parts), "utf-8")
