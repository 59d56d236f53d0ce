"""A machine without a fault, for tests that give it one."""

from pathlib import Path

from harness.measuring.doctor import Finding, Severity, examine

OK, WARNING, WORTHLESS = Severity
GIB = 2**30
MACHINE = {
    "proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 100 0 0 900 0 0 0 0 0 0\ncpu1 100 0 0 900 0 0 0 0 0 0\nintr 1\n",
    "proc/loadavg": "0.05 0.10 0.32 1/86 12756\n",
    "proc/meminfo": "MemTotal: 16777216 kB\nSwapTotal: 1048576 kB\nSwapFree: 1048576 kB\n",
    "proc/vmstat": "nr_free_pages 1\npswpin 7\npswpout 9\n",
    "proc/cpuinfo": "flags\t\t: fpu sse2\n",
    "proc/self/status": "Name:\tharness\nTracerPid:\t0\n",
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 0\n",
    "sys/fs/cgroup/memory.max": "max\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0\n",
    "sys/devices/system/cpu/cpu1/topology/thread_siblings_list": "1\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
}


class Root:
    """A machine without a fault, in a folder; a test changes some of its files, now or while the doctor waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.later: dict[str, str] = {}
        self.now(MACHINE)
        self.in_the_interval("proc/stat", "cpu0 100 0 0 950 0 0 0 0 0 0\ncpu1 100 0 0 950 0 0 0 0 0 0\n")

    def now(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def in_the_interval(self, name: str, text: str) -> None:
        self.later[name] = text

    def without(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def findings(self, device: str = "cpu", nvml: object = None, **options: object) -> list[Finding]:
        return examine(device, self.folder, lambda: nvml, sleep=lambda _seconds: self.now(self.later), **options)

    def finding(self, what: str, *given: object, **options: object) -> Finding:
        (found,) = (each for each in self.findings(*given, **options) if each.what == what)
        return found
