"""What the user can mend: every message names the file, key or setting, and what would be right.

The command line prints these without a traceback; anything else that is raised is a fault of ours.
"""


class InputError(ValueError):
    """Something that was handed to the project cannot be used as it is."""


class ConfigError(InputError):
    """A setting that does not exist, is out of range, or a YAML file that is not a mapping."""


class VideoError(InputError):
    """A video file that cannot be read."""


class ImageError(InputError):
    """A picture that cannot be read."""


class QuestionError(InputError):
    """A question file, or one record in it, that cannot be used."""


class ShardError(InputError):
    """A shard or its index that is missing, damaged, or does not fit the rest."""


class RunError(InputError):
    """A run folder that is missing something or belongs to another model."""


class DivergenceError(InputError):
    """Losses or gradients that are no finite numbers, more often than a run may leave them out."""


class WeightsError(InputError):
    """A checkpoint, a file of weights or a tokenizer that is missing, damaged, or belongs to another architecture."""


class SyntheticDataError(InputError):
    """A story that cannot be generated, or a folder with videos of other settings."""


class TeacherError(InputError):
    """A model server that does not answer, or a folder of annotations that cannot be gone on with."""


class InvalidResponseError(InputError):
    """What a model server answered cannot be used, however often it was asked."""


class ReportError(InputError):
    """Answers or reports of an evaluation that do not belong together, or a report that cannot be read."""


class JsonlError(InputError):
    """A journal that cannot be read or written."""


class ServerError(InputError):
    """A server that cannot be started safely as it was asked for."""


class MemoryFileError(InputError):
    """A file of a memory, or the folder of such files, that is missing, damaged, or belongs to another video or model."""
