"""The errors that end a training command on purpose. Any other exception is a bug and shows its trace.

TrainingError
├── InputError      a file, row, setting or path of the user is wrong: exit code 2
└── StageError      a stage finished, but its result must not be used (an export unlike torch): exit code 1
"""


class TrainingError(Exception):
    """The root of the tree. __main__ catches it and prints its message without a trace."""

    exit_code = 1


class InputError(TrainingError):
    """Something that the user gave is wrong. The message names it and says what to do."""

    exit_code = 2


class StageError(TrainingError):
    """The result of a stage did not pass the stage's own check."""
