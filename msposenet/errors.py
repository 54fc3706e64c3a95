"""The errors that leave the package, each with the exit code its verb ends with.

Anything a user can cause (a damaged file, a wrong option, a full disk) is a child of `PoseError` whose message names
the file, the item, the value found and the remedy. Whatever else is raised is a defect of the package itself.
"""

from __future__ import annotations


class PoseError(Exception):
    """Root of all expected failures; `exit_code` is what the command line returns."""

    exit_code = 2


class ConfigError(PoseError):
    """A configuration, option or name that cannot be used."""


class DataError(PoseError):
    """An annotation file or record that cannot be trusted."""


class ImageError(DataError):
    """A picture that cannot be read whole."""


class ResultError(PoseError):
    """Predictions or detections that cannot be scored."""


class CheckpointError(PoseError):
    """A weight or checkpoint file that is damaged or does not fit the network."""


class ExportError(PoseError):
    """An exported graph that does not give the network's results."""


class DivergedError(PoseError):
    """Loss or weights became NaN or infinite, or ranks disagree."""

    exit_code = 3


class StorageError(PoseError):
    """The disk is full, read-only or gone."""

    exit_code = 4


class LoaderError(PoseError):
    """A loader worker died or hung; the run can be resumed."""

    exit_code = 75


class PeerError(PoseError):
    """Another process of the job was lost, stalled or spoke out of turn; the run can be resumed."""

    exit_code = 75


class Terminated(PoseError):
    """SIGTERM was honoured: a checkpoint was written and the run can be resumed."""

    exit_code = 143
