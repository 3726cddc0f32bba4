"""Mutated inputs for everything that reads bytes or text from elsewhere: `python -m tests.fuzz --count N --seed S`."""
