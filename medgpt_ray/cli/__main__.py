"""`python -m medgpt_ray.cli`."""

from medgpt_ray.cli import app

if __name__ == "__main__":
    app()
