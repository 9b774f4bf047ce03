"""Weights from the learner to the rollout engines, behind vLLM's weight-transfer interface."""
