"""A KL coefficient that seeks a target (arXiv 1909.08593, section 2.2)."""

from medgpt_ray.config.algorithms import Kl


def next_coefficient(coefficient: float, kl: float, completions: int, section: Kl) -> float:
    """The coefficient after a step of `completions` whose mean KL, summed over tokens, was `kl`.

    beta (1 + clip(kl / target - 1, +-0.2) n / horizon); the same when it is not adaptive.
    """
    if section.target is None:
        return coefficient
    error = min(max(kl / section.target - 1, -0.2), 0.2)
    return coefficient * (1 + error * completions / section.horizon)
