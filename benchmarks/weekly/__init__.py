"""What the benchmark of generations runs: a task whose data grow from week to week."""
