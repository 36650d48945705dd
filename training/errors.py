"""What ends a training command on purpose. Everything else is a bug and shows its trace.

TrainingError
├── InputError      the user's file, row, setting or path is wrong: exit code 2, message names it and the way out
└── StageError      a stage finished with a result that must not be used (an export unlike torch): exit code 1
"""


class TrainingError(Exception):
    """The root: caught once, in __main__, printed without a trace."""

    exit_code = 1


class InputError(TrainingError):
    """Something the user gave is wrong."""

    exit_code = 2


class StageError(TrainingError):
    """A stage's result did not pass its own check."""
