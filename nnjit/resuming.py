"""Going on with a run: the state that it stopped in, under a config that may change only what changes no step, and
the size of the steps to come."""

from __future__ import annotations

from nnjit.checkpoint import Checkpoint, read_checkpoint
from nnjit.config import Config, LoadedConfig
from nnjit.config.changes import changes
from nnjit.config.document import Path, abridged, show
from nnjit.errors import ConfigError
from nnjit.run_folder import RunFolder
from nnjit.trained import stored_config


def read_state(run: RunFolder, loaded: LoadedConfig) -> Checkpoint:
    """The last checkpoint of a run that is to go on with another reading of its config.

    Raises ConfigError with every key that differs and should not, DataError for a damaged checkpoint.
    """
    checkpoint = read_checkpoint(run.last)
    different = changes(stored_config(checkpoint, run.last), loaded.located())
    lines = [
        f"  {show(path)}: {abridged(before)} in the run, {abridged(now)} now"
        for path, (before, now) in different.items()
        if not _may_change(path, loaded.config)
    ]
    if lines:
        raise ConfigError(
            f"{run.path}: a run goes on with its own config, but these keys differ:\n"
            + "\n".join(lines)
            + "\nset them back, or begin a new run without --resume"
        )
    return checkpoint


def changed_steps(state: Checkpoint, run: RunFolder, loaded: LoadedConfig) -> list[str]:
    """What the steps to come do otherwise than those that a run has taken, a line for each key of the config."""
    different = changes(stored_config(state, run.last), loaded.located())
    return [
        f"going on with {show(path)} {abridged(now)} from step {state.progress.step + 1} ({abridged(before)} so far)"
        for path, (before, now) in different.items()
        if path in CHANGES_STEPS
    ]


CHANGES_STEPS: tuple[Path, ...] = (("optimizer", "learning_rate"),)
"""Where a run may go on with another value that makes its steps others."""


def _may_change(path: Path, config: Config) -> bool:
    """Whether a run may go on with another value there: how long it trains, how often it saves, where its data lies,
    and the learning rate, each of which the checkpoint records with the step that it came at."""
    if path in (("train", "epochs"), ("train", "checkpoint_every"), *CHANGES_STEPS):
        return True
    section, *rest = path
    if section != "data" or len(rest) != 2:
        return False
    return rest[1] in getattr(getattr(config.data, str(rest[0])), "paths", ())
