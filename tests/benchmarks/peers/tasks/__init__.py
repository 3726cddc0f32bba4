"""Each contestant's tasks, in a module that its workers import."""
