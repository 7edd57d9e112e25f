"""The contract: task and what was granted, families, splits, outcome, evidence, events, registry, catalogue, config, files."""
