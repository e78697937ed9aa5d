"""What tools/demo, bench/run and tests/e2e share: processes that end with their starter, and QMP."""
