"""`medgpt serve`: vLLM's OpenAI application behind Ray Serve.

A request passes the gate (keys, sizes, rates; `gate`), then the assistant (adapter version,
retrieval, safety guard, log; `assistant`), then vLLM's own API server (`engine`).
"""
