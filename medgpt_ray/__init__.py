"""medgpt_ray: train medical (and other) language models with reinforcement learning on Ray."""
