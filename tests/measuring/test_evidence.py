import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.measuring import evidence as evidence_module
from harness.measuring.evidence import CHEAP_NS, COUNTED_EVERY, CpuEvidence, Crowded, Delayed, GpuEvidence, Together
from harness.measuring.nvml import DISTURBING_REASONS, Gpu

MS = 1_000_000


class Machine:
    """What the kernel says of four CPUs, and a thread whose time and switches are told."""

    def __init__(self, root):
        self.root = root
        self.steal = [0, 0, 0, 0]
        self.thread_ns = 0
        self.switches = 0
        (root / "proc").mkdir()
        for cpu in range(4):
            (root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq").mkdir(parents=True)
            self.clock(cpu, 3_000_000)
        self.tick()

    def tick(self, *steal):
        for cpu in steal:
            self.steal[cpu] += 1
        each = [f"cpu{cpu} 1{cpu} 0 5 900 3 0 2 {ticks} 0 0\n" for cpu, ticks in enumerate(self.steal)]
        whole = f"cpu  46 0 20 3600 12 0 8 {sum(self.steal)} 0 0\n"
        (self.root / "proc/stat").write_text(f"{whole}{''.join(each)}intr 77 0 9\nctxt 5\ncpu9x 0 0 0 0 0 0 0 9 9\n")

    def clock(self, cpu, khz):
        (self.root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq").write_text(f"{khz}\n")

    def evidence(self, cpus=(1,), *, alone=True):
        return CpuEvidence(
            cpus,
            alone=alone,
            root=self.root,
            thread_time_ns=lambda: self.thread_ns,
            switches=lambda: self.switches,
        )

    def block(self, evidence, during=lambda: None, ran_ns=10 * MS, taken_ns=10 * MS):
        evidence.begin()
        during()
        self.thread_ns += ran_ns
        disturbance = evidence.end(taken_ns)
        return evidence.afterwards() or disturbance


@pytest.fixture
def machine(tmp_path, monkeypatch):
    # However slow the disk of the tests is, these files are the kernel's.
    monkeypatch.setattr(evidence_module, "CHEAP_NS", 10**12)
    return Machine(tmp_path)


# The CPU


def test_a_block_during_which_nothing_happens_is_undisturbed(machine):
    evidence = machine.evidence()
    assert [machine.block(evidence) for _ in range(3)] == ["", "", ""]


def test_a_core_that_the_kernel_took_away_is_preempted(machine):
    evidence = machine.evidence()

    def switch():
        machine.switches += 1

    assert machine.block(evidence, switch) == "preempted"
    switch()  # between two blocks
    assert machine.block(evidence) == ""


@pytest.mark.parametrize(
    ("cpus", "stolen_from", "says"),
    [
        ((1,), 1, "stolen"),
        ((1,), 0, ""),
        ((1, 3), 3, "stolen"),
        ((1, 3), 2, ""),
        ((0,), 0, "stolen"),
        ((), 2, "stolen"),
    ],
)
def test_time_that_the_hypervisor_took_counts_on_the_cpus_of_the_process_alone(machine, cpus, stolen_from, says):
    evidence = machine.evidence(cpus)
    assert machine.block(evidence, lambda: machine.tick(stolen_from)) == says
    assert machine.block(evidence) == ""


def test_stolen_time_is_counted_from_one_block_to_the_next_because_the_kernel_books_it_by_ticks(machine):
    machine.tick(1)  # before anything is watched
    evidence = machine.evidence()
    assert machine.block(evidence) == ""
    machine.tick(1)  # between two blocks
    assert [machine.block(evidence) for _ in range(2)] == ["stolen", ""]


@pytest.mark.parametrize(
    ("quota", "stat", "before", "after"),
    [
        ("cpu.max", "cpu.stat", "nr_throttled 3\nthrottled_usec 900\n", "nr_throttled 4\nthrottled_usec 901\n"),
        ("cpu.max", "cpu.stat", "nr_throttled 3\nthrottled_usec 900\n", "nr_throttled 3\nthrottled_usec 950\n"),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.stat", "nr_throttled 0\nthrottled_time 0\n", "nr_throttled 1\n"),
    ],
    ids=["version 2", "for how long", "version 1"],
)
def test_a_container_that_is_stopped_for_its_quota_is_throttled(machine, quota, stat, before, after):
    def counted(text):
        (machine.root / "sys/fs/cgroup" / stat).write_text(f"nr_periods 70\n{text}")

    (machine.root / "sys/fs/cgroup/cpu").mkdir(parents=True)
    (machine.root / "sys/fs/cgroup" / quota).write_text("50000" if "cfs" in quota else "50000 100000")
    (machine.root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000")
    counted(before)
    evidence = machine.evidence()
    assert machine.block(evidence) == ""
    assert machine.block(evidence, lambda: counted(after), ran_ns=MS) == "throttled"  # and has waited
    assert machine.block(evidence, lambda: counted(f"{after}nr_periods 71\n")) == ""


def test_without_a_quota_nobody_asks_whether_the_container_was_stopped(machine):
    (machine.root / "sys/fs/cgroup").mkdir(parents=True)
    (machine.root / "sys/fs/cgroup/cpu.max").write_text("max 100000")
    stat = machine.root / "sys/fs/cgroup/cpu.stat"
    stat.write_text("nr_throttled 0\n")
    evidence = machine.evidence()
    assert machine.block(evidence, lambda: stat.write_text("nr_throttled 9\n")) == ""


def test_a_kernel_that_counts_no_stolen_time_says_nothing(machine):
    (machine.root / "proc/stat").write_text("cpu  1 2 3\ncpu1 1 2 3\n")
    evidence = machine.evidence()
    assert machine.block(evidence) == ""


@pytest.mark.parametrize(("missing_ns", "says"), [(0, ""), (99_000, ""), (101_000, "waited"), (9 * MS, "waited")])
def test_a_thread_that_did_not_run_all_the_time_has_waited(machine, missing_ns, says):
    evidence = machine.evidence()
    assert machine.block(evidence, ran_ns=10 * MS - missing_ns) == says


def test_where_others_do_some_of_the_work_waiting_for_them_is_no_disturbance(machine):
    evidence = machine.evidence((1, 2), alone=False)
    assert machine.block(evidence, ran_ns=MS) == ""


@pytest.mark.parametrize(("khz", "says"), [(2_800_000, ""), (2_780_000, "slow clock"), (1_000_000, "slow clock")])
def test_a_clock_that_fell_is_slow_until_it_is_back(machine, khz, says):
    evidence = machine.evidence()
    assert {machine.block(evidence) for _ in range(10)} == {""}
    assert machine.block(evidence, lambda: machine.clock(1, khz)) == says
    assert machine.block(evidence) == says
    assert machine.block(evidence, lambda: machine.clock(1, 3_000_000)) == ""


def test_a_level_that_the_clock_settles_at_is_no_disturbance(machine):
    evidence = machine.evidence()
    for _ in range(10):
        machine.block(evidence)
    machine.clock(1, 2_000_000)
    said = [machine.block(evidence) for _ in range(40)]
    assert said == ["slow clock"] * 10 + [""] * 30
    machine.clock(1, 1_500_000)
    assert machine.block(evidence) == "slow clock"


def test_a_clock_that_was_once_high_makes_no_later_block_slow(machine):
    evidence = machine.evidence()
    machine.clock(1, 4_000_000)
    machine.block(evidence)
    machine.clock(1, 3_000_000)
    assert [machine.block(evidence) for _ in range(20)][1:] == [""] * 19


@pytest.mark.parametrize("cpus", [(1, 2), ()])
def test_of_several_cpus_no_clock_is_watched_because_some_of_them_idle(machine, cpus):
    evidence = machine.evidence(cpus)
    for _ in range(10):
        machine.block(evidence)
    for cpu in range(4):
        machine.clock(cpu, 1_000_000)
    assert machine.block(evidence) == ""


def test_the_clock_of_another_cpu_may_fall(machine):
    evidence = machine.evidence((1,))
    machine.block(evidence)
    assert machine.block(evidence, lambda: machine.clock(2, 1_000_000)) == ""


def test_of_several_disturbances_the_kernels_is_told(machine):
    evidence = machine.evidence()

    def everything():
        machine.switches += 1
        machine.tick(1)
        machine.clock(1, 1_000)

    for _ in range(10):
        machine.block(evidence)
    evidence.begin()
    everything()
    assert evidence.end(10 * MS) == "preempted"  # and has waited
    assert evidence.afterwards() == "stolen"
    assert evidence.afterwards() == "slow clock"


def test_right_around_a_block_no_file_is_read(machine, monkeypatch):
    evidence = machine.evidence()
    monkeypatch.setattr(evidence_module.os, "pread", lambda *_: pytest.fail("it reads a file"))
    evidence.begin()
    machine.tick(1)
    machine.thread_ns += 10 * MS
    assert evidence.end(10 * MS) == ""
    monkeypatch.undo()
    assert evidence.afterwards() == "stolen"


@pytest.mark.parametrize("cpus", [(), (1,), (7,)])
def test_a_machine_that_says_nothing_disturbs_nothing(tmp_path, cpus):
    evidence = CpuEvidence(cpus, alone=True, root=tmp_path, thread_time_ns=lambda: 0, switches=lambda: 0)
    evidence.begin()
    assert evidence.end(0) == evidence.afterwards() == ""


def test_a_clock_that_is_no_number_says_nothing(machine):
    machine.clock(1, "<unknown>")
    evidence = machine.evidence()
    assert machine.block(evidence) == ""


def test_a_cpu_that_goes_offline_ends_no_measurement(machine, monkeypatch):
    evidence = machine.evidence()

    def gone(*_):
        raise OSError(19, "No such device")

    monkeypatch.setattr(evidence_module.os, "pread", gone)
    assert machine.block(evidence) == ""


def test_files_that_take_long_to_read_are_not_read_around_blocks(tmp_path, monkeypatch):
    machine = Machine(tmp_path)
    reads, read = [], os.pread

    def slow(*arguments):
        reads.append(arguments)
        time.sleep(2 * CHEAP_NS / 1e9)
        return read(*arguments)

    monkeypatch.setattr(evidence_module.os, "pread", slow)
    evidence = machine.evidence()
    tried = len(reads)
    assert tried > 0
    assert machine.block(evidence, lambda: (machine.tick(1), machine.clock(1, 5))) == ""
    assert len(reads) == tried


def test_a_file_that_is_slow_once_is_read(machine, monkeypatch):
    monkeypatch.setattr(evidence_module, "CHEAP_NS", CHEAP_NS)
    times = iter(
        [0, 50 * CHEAP_NS, 100 * CHEAP_NS, 100 * CHEAP_NS + 10, 200 * CHEAP_NS, 300 * CHEAP_NS] * 2
    )  # the second of three reads is quick
    monkeypatch.setattr(evidence_module, "time", SimpleNamespace(perf_counter_ns=lambda: next(times)))
    evidence = machine.evidence()
    assert machine.block(evidence, lambda: machine.tick(1)) == "stolen"


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux")  # noqa: PTH110
def test_this_machine_can_be_asked(monkeypatch):
    evidence = CpuEvidence(os.sched_getaffinity(0), alone=True)
    evidence.begin()
    assert evidence.end(10 * MS) in ("waited", "preempted")  # nothing ran for ten milliseconds
    assert evidence.afterwards() in ("", "stolen", "slow clock")
    taken = []
    for _ in range(20):
        start = time.perf_counter_ns()
        evidence.begin()
        evidence.end(1)
        taken.append(time.perf_counter_ns() - start)
    assert min(taken) < 5 * CHEAP_NS


# The GPU


ME, ANOTHER = 11, 22


class FakeNvml:
    def __init__(self):
        self.reasons, self.clock_mhz, self.busy, self.counted, self.asked = 0, 1980, [(ME, 90)], 0, 0

    def nvmlDeviceGetCurrentClocksEventReasons(self, _handle):  # noqa: N802 - NVML's names
        self.asked += 1
        return self.reasons

    def nvmlDeviceGetClockInfo(self, _handle, _kind):  # noqa: N802
        self.asked += 1
        return self.clock_mhz

    def nvmlDeviceGetComputeRunningProcesses(self, _handle):  # noqa: N802
        return [None] * 5  # whoever has a context, idle ones as well

    def nvmlDeviceGetProcessUtilization(self, _handle, _since_us):  # noqa: N802
        self.asked += 1
        self.counted += 1
        return [SimpleNamespace(pid=pid, smUtil=share) for pid, share in self.busy]


class OldNvml(FakeNvml):
    nvmlDeviceGetCurrentClocksEventReasons = property()  # noqa: N815 - is not there

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle):  # noqa: N802
        return self.reasons


def gpu_block(evidence):
    evidence.begin()
    disturbance = evidence.end(10 * MS)
    return evidence.afterwards() or disturbance


def test_right_around_a_block_nvml_is_asked_nothing():
    library = FakeNvml()
    evidence = GpuEvidence(Gpu(library, None))
    library.reasons, library.busy = 0x04, [(ME, 90), (ANOTHER, 9)]
    evidence.begin()
    assert evidence.end(10 * MS) == ""
    assert library.asked == 0
    assert evidence.afterwards() == "shared GPU"
    assert library.asked > 0


@pytest.mark.parametrize("library", [FakeNvml, OldNvml])
@pytest.mark.parametrize(("bit", "name"), DISTURBING_REASONS.items())
def test_each_reason_for_lower_clocks_disturbs_by_its_name(library, bit, name):
    library = library()
    evidence = GpuEvidence(Gpu(library, None))
    assert gpu_block(evidence) == ""
    library.reasons = bit
    assert gpu_block(evidence) == name
    library.reasons = bit | 0x1 | 0x2
    assert gpu_block(evidence) == name
    library.reasons = 0
    assert gpu_block(evidence) == ""


@pytest.mark.parametrize("bits", [0x0, 0x1, 0x2, 0x100, 0x103])
def test_idle_application_and_display_clocks_are_no_disturbance(bits):
    library = FakeNvml()
    library.reasons = bits
    assert gpu_block(GpuEvidence(Gpu(library, None))) == ""


@pytest.mark.parametrize(
    ("clock_mhz", "says"), [(1980, ""), (1850, ""), (1835, "slow GPU clock"), (345, "slow GPU clock")]
)
def test_a_gpu_clock_that_fell_below_the_usual_one_is_slow(clock_mhz, says):
    library = FakeNvml()
    evidence = GpuEvidence(Gpu(library, None))
    assert {gpu_block(evidence) for _ in range(10)} == {""}
    library.clock_mhz = clock_mhz
    assert gpu_block(evidence) == says
    library.clock_mhz = 1980
    assert gpu_block(evidence) == ""


def test_a_gpu_clock_that_settles_lower_is_no_disturbance():
    library = FakeNvml()
    evidence = GpuEvidence(Gpu(library, None))
    for _ in range(10):
        gpu_block(evidence)
    library.clock_mhz = 1400
    assert [gpu_block(evidence) for _ in range(30)] == ["slow GPU clock"] * 10 + [""] * 20


def test_a_clock_that_rises_from_idle_is_not_slow():
    library = FakeNvml()
    evidence = GpuEvidence(Gpu(library, None))
    for library.clock_mhz in (345, 1200, 1980):
        assert gpu_block(evidence) == ""


@pytest.mark.parametrize(
    ("busy", "says"),
    [
        ([], ""),
        ([(ME, 90)], ""),
        ([(ME, 90), (ME, 40)], ""),
        ([(ME, 90), (ANOTHER, 0)], ""),
        ([(ME, 90), (ANOTHER, 1)], "shared GPU"),
    ],
    ids=["nobody", "this one", "this one twice", "another idles", "another computes"],
)
def test_a_gpu_on_which_somebody_else_computes_is_shared(busy, says):
    library = FakeNvml()
    library.busy = busy
    assert gpu_block(GpuEvidence(Gpu(library, None))) == says


def test_of_a_slice_nobody_knows_who_computes_on_it():
    library = FakeNvml()
    library.busy = [(ME, 90), (ANOTHER, 90)]
    assert gpu_block(GpuEvidence(Gpu(library, None, is_slice=True))) == ""


def test_who_comes_later_is_noticed_later_because_counting_is_slow():
    library = FakeNvml()
    evidence = GpuEvidence(Gpu(library, None))
    assert gpu_block(evidence) == ""
    library.busy = [(ME, 50), (ANOTHER, 50)]
    said = [gpu_block(evidence) for _ in range(2 * COUNTED_EVERY)]
    assert said.index("shared GPU") == COUNTED_EVERY - 1
    assert set(said[COUNTED_EVERY - 1 :]) == {"shared GPU"}
    assert library.counted == 3


def test_a_gpu_that_answers_nothing_disturbs_nothing():
    assert gpu_block(GpuEvidence(Gpu(object(), None))) == ""


# Both


class Says:
    def __init__(self, word):
        self.word, self.log = word, []

    def begin(self):
        self.log.append("begin")

    def end(self, taken_ns):
        self.log.append(taken_ns)
        return self.word

    def afterwards(self):
        self.log.append("afterwards")
        return self.word and f"{self.word} afterwards"


@pytest.mark.parametrize(
    ("words", "heard"), [(("", ""), ""), (("a", ""), "a"), (("", "b"), "b"), (("a", "b"), "a"), ((), "")]
)
def test_the_first_that_has_something_to_say_is_heard_and_all_are_asked(words, heard):
    parts = [Says(word) for word in words]
    together = Together(*parts)
    together.begin()
    assert together.end(7) == heard
    assert together.afterwards() == (heard and f"{heard} afterwards")
    assert all(part.log == ["begin", 7, "afterwards"] for part in parts)


def test_ranks_without_a_core_each_are_disturbed_in_every_block(machine):
    evidence = Together(Crowded(), machine.evidence())
    assert [machine.block(evidence) for _ in range(3)] == ["fewer cores than ranks"] * 3


class Turns:
    """A thread that runs, waits for its core and shares it with other threads of its process."""

    def __init__(self, root):
        self.file = root / "proc/thread-self/schedstat"
        self.file.parent.mkdir(parents=True)
        self.ran = self.waited = self.others = 0
        self.write()

    def write(self):
        self.file.write_text(f"{self.ran} {self.waited} 7\n")

    def block(self, evidence, ran_ns, waited_ns, others_ns):
        evidence.begin()
        self.ran, self.waited, self.others = self.ran + ran_ns, self.waited + waited_ns, self.others + others_ns
        self.write()
        return evidence.end(10 * MS) or evidence.afterwards()

    def evidence(self, root):
        return Delayed(root, process_time_ns=lambda: self.ran + self.others, thread_time_ns=lambda: self.ran)


@pytest.mark.parametrize(
    ("ran_ns", "waited_ns", "others_ns", "says"),
    [
        (10 * MS, 0, 0, ""),
        (3 * MS, 0, 0, ""),  # it slept: ranks wait for each other
        (7 * MS, 3 * MS, 3 * MS, ""),  # a thread of its own had the core
        (7 * MS, 3 * MS, 2 * MS, "preempted"),
        (10 * MS, 90_000, 0, ""),
        (10 * MS, 110_000, 0, "preempted"),
    ],
)
def test_a_thread_that_waits_for_its_core_is_disturbed_unless_threads_of_its_own_had_it(
    tmp_path, monkeypatch, ran_ns, waited_ns, others_ns, says
):
    monkeypatch.setattr(evidence_module, "CHEAP_NS", 10**12)
    turns = Turns(tmp_path)
    evidence = turns.evidence(tmp_path)
    assert [turns.block(evidence, ran_ns, waited_ns, others_ns) for _ in range(2)] == [says] * 2


@pytest.mark.parametrize("text", ["", "1 2\n", None])
def test_where_the_kernel_does_not_tell_how_long_a_thread_waited_nothing_is_said(tmp_path, text):
    turns = Turns(tmp_path)
    turns.file.unlink() if text is None else turns.file.write_text(text)
    evidence = turns.evidence(tmp_path)
    evidence.begin()
    turns.others += MS
    assert evidence.end(10 * MS) == ""


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the kernel does not tell")
def test_this_thread_is_delayed_by_a_process_on_its_core():
    cpu = max(os.sched_getaffinity(0))
    program = "import os, time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    other = subprocess.Popen([sys.executable, "-S", "-c", program])
    try:
        evidence = Delayed()
        evidence.begin()
        start, end = time.monotonic_ns(), time.monotonic_ns() + 10**9
        while time.monotonic_ns() < end:
            pass
        assert evidence.end(time.monotonic_ns() - start) == "preempted"
    finally:
        os.sched_setaffinity(0, before)
        other.kill()
        other.wait()
