"""What a run is: typed sections, and the YAML files that say it. No torch, no ray."""
