"""Pure tensor functions: advantages, KL estimators and losses, one algorithm a file.

`ALGORITHMS` maps `algorithm.name` of the configuration to the record built from that section.
"""

from medgpt_ray.algos.grpo import Grpo

ALGORITHMS = {"grpo": Grpo}
