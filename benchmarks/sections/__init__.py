"""What each result file says, in tables and sentences: the sections of the pages."""

from sections.accuracy import of_accuracy
from sections.cuda import of_cuda
from sections.distributed import of_distributed
from sections.kernels import of_kernels
from sections.models import of_models
from sections.operations import of_batch_norm, of_cross_entropy
from sections.questions import of_questions
from sections.small_sizes import of_small_sizes
from sections.training import of_backends, of_training_step

__all__ = [
    "of_accuracy",
    "of_backends",
    "of_batch_norm",
    "of_cross_entropy",
    "of_cuda",
    "of_distributed",
    "of_kernels",
    "of_models",
    "of_questions",
    "of_small_sizes",
    "of_training_step",
]
