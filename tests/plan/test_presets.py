from dataclasses import fields

from harness.measuring.sampling import Rule
from harness.plan.presets import PRESETS, Preset, Sampling


def test_more_thorough_presets_have_more_rounds_narrower_intervals_and_more_time():
    quick, standard, rigorous = PRESETS.values()
    assert list(PRESETS) == ["quick", "standard", "rigorous"]
    assert quick.rounds < standard.rounds < rigorous.rounds
    assert quick.sampling.relative_width > standard.sampling.relative_width > rigorous.sampling.relative_width
    assert quick.sampling.budget_ns < standard.sampling.budget_ns < rigorous.sampling.budget_ns


def test_what_a_preset_says_of_the_timing_is_what_the_rule_takes_and_quick_is_its_default():
    rule = Rule()
    for part in fields(Sampling):
        assert getattr(rule, part.name) == getattr(PRESETS["quick"].sampling, part.name)
    assert Preset(rounds=3).sampling == PRESETS["quick"].sampling == Sampling()


def test_only_presets_that_time_long_enough_may_carry_a_verdict():
    # Three rounds cannot (see the statistics of comparing); five and more can.
    assert PRESETS["quick"].rounds == 3
    assert all(preset.rounds >= 5 for name, preset in PRESETS.items() if name != "quick")


def test_the_time_is_enough_for_the_least_number_of_blocks_and_for_a_plateau():
    rule = Rule()
    for preset in PRESETS.values():
        assert preset.sampling.budget_ns >= 4 * rule.min_blocks * rule.block_ns
