"""Pure tensor functions: advantages, KL estimators and losses, one algorithm a file.

`ALGORITHMS` maps `algorithm.name` of the configuration to the record built from that section.
"""

from medgpt_ray.algos.cispo import Cispo
from medgpt_ray.algos.dapo import Dapo
from medgpt_ray.algos.dr_grpo import DrGrpo
from medgpt_ray.algos.grpo import Grpo
from medgpt_ray.algos.gspo import Gspo
from medgpt_ray.algos.policy_gradient import PolicyGradient
from medgpt_ray.algos.ppo import Ppo
from medgpt_ray.algos.reinforce_pp import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from medgpt_ray.algos.rloo import Rloo

ALGORITHMS: dict[str, type[PolicyGradient]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "dapo": Dapo,
    "gspo": Gspo,
    "cispo": Cispo,
    "rloo": Rloo,
    "reinforce_pp": ReinforcePlusPlus,
    "reinforce_pp_baseline": ReinforcePlusPlusBaseline,
    "ppo": Ppo,
}
