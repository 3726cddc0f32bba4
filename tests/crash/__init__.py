"""The fault suite: numbered faults on every broker, and a checker of what the jobs themselves wrote down."""
