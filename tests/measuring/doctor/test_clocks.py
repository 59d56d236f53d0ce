import pytest

from tests.measuring.doctor.faultless import OK, WARNING


def test_any_other_governor_than_performance_is_warned_of(root):
    root.now({"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n"})
    found = root.finding("frequency governor")
    assert found.severity == WARNING
    assert found.found.startswith("performance, schedutil:")


@pytest.mark.parametrize(
    ("path", "value", "severity"),
    [
        ("intel_pstate/no_turbo", "0", WARNING),
        ("intel_pstate/no_turbo", "1", OK),
        ("cpufreq/boost", "1", WARNING),
        ("cpufreq/boost", "0", OK),
    ],
)
def test_turbo_is_warned_of_and_how_to_turn_it_off_is_the_opposite_value(root, path, value, severity):
    root.without("sys/devices/system/cpu/intel_pstate/no_turbo")
    root.now({f"sys/devices/system/cpu/{path}": f"{value}\n"})
    found = root.finding("turbo")
    assert found.severity == severity
    if severity == WARNING:
        assert found.advice == f"echo {1 - int(value)} | sudo tee /sys/devices/system/cpu/{path}"


@pytest.mark.parametrize(
    ("flags", "said"),
    [("fpu hypervisor sse2", "not readable here (virtual machine)"), ("fpu sse2", "not readable here")],
)
def test_what_a_virtual_machine_hides_is_no_fault(root, flags, said):
    root.without(
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
        "sys/devices/system/cpu/intel_pstate/no_turbo",
    )
    root.now({"proc/cpuinfo": f"processor\t: 0\nflags\t\t: {flags}\n"})
    for what in ("frequency governor", "turbo"):
        found = root.finding(what)
        assert (found.severity, found.found) == (OK, said)


def ticking(step_ns: int, every: int = 1):
    """A clock of which each `every`-th read is step_ns later."""
    reads = 0

    def clock_ns() -> int:
        nonlocal reads
        reads += 1
        return reads // every * step_ns

    return clock_ns


@pytest.mark.parametrize(
    ("source", "clock_ns", "severity"),
    [
        ("tsc", ticking(50), OK),
        ("kvm-clock", ticking(1000), OK),
        ("tsc", ticking(1001), WARNING),
        ("hpet", ticking(50), WARNING),
        ("tsc", ticking(4_000_000, every=500), WARNING),  # a clock that steps every 4 ms
        ("tsc", ticking(0), WARNING),
    ],
)
def test_a_clock_that_is_slow_coarse_or_not_the_cpus_own_is_warned_of(root, source, clock_ns, severity):
    root.now({"sys/devices/system/clocksource/clocksource0/current_clocksource": source})
    assert root.finding("clock", clock_ns=clock_ns).severity == severity
