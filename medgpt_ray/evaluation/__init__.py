"""The parts of `medgpt eval`: questions, tasks, lm-eval, a server for the model, the summary.

No Ray, and vLLM only as a program that is started; what scores a reply is handed in.
"""
