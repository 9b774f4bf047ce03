"""More or fewer rollout workers for a run that is under way."""

from medgpt_ray.config.loader import ConfigError
from medgpt_ray.config.schema import RlRun
from medgpt_ray.tracking.rundir import RunDirectory, RunDirectoryError


def scale(path: str, workers: int) -> None:
    """Ask the run at `path` for so many rollout workers. It obeys at its next weight sync, and goes
    on obeying after `--resume`; its samples stay the same.

    Raises `ConfigError` for what is no run, or cannot come to this number.
    """
    try:
        run = RunDirectory.open(path)
    except RunDirectoryError as error:
        raise ConfigError([str(error)]) from None
    config = run.read_config()
    if not isinstance(config, RlRun):
        raise ConfigError([f"{path}: a run of stage {config.stage} has no rollout workers"])
    if config.rollout.colocated:
        raise ConfigError([f"{path}: rollout.colocated has one engine for each policy worker"])
    most = config.rollout.most_workers
    if not 1 <= workers <= most:
        raise ConfigError(
            [
                f"{path}: {workers} rollout workers asked for, 1 to {most} are possible: that is "
                "its rollout.max_workers (or workers)"
            ]
        )
    run.ask_for_rollout_workers(workers)
