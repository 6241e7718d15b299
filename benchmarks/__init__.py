"""Speed, as ratios measured in one run; opt-in, never part of the tests."""
