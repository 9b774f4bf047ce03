"""What a run leaves behind and what one sees while it runs: directory, metrics, samples, report."""
