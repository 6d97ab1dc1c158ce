"""MLflow, and the only home of it: runs and their curves, the versions of the registry, and what a version holds."""
