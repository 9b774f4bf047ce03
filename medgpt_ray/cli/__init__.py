"""The command `medgpt`: parses, imports late, calls one function. Starting it imports only typer.

A configuration, data or set-up that cannot run is told on standard error, a line a problem, with
exit status 2.
"""

from medgpt_ray.cli import data, documents, models, serving, training
from medgpt_ray.cli.app import app

__all__ = ["app", "data", "documents", "models", "serving", "training"]
