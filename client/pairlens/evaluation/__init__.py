"""Which explanations of a model are faithful: a data set, methods, metrics, and a table.

`evaluate_images`, `evaluate_pairs`, `evaluate_mosaics` and `evaluate_pair_mosaics` run
through a server and return an `Evaluation`; so does `pairlens evaluate`.
"""

from pairlens.evaluation.api import (
    DEFAULT_CALL_TIMEOUT_S,
    evaluate_images,
    evaluate_mosaics,
    evaluate_pair_mosaics,
    evaluate_pairs,
)
from pairlens.evaluation.class_mosaics import ClassMosaics
from pairlens.evaluation.dataset import Dataset, LabelledImage, read_dataset
from pairlens.evaluation.mosaic_protocol import MosaicOptions
from pairlens.evaluation.pair_measures import PairOptions
from pairlens.evaluation.pair_mosaics import PairMosaics
from pairlens.evaluation.pairfaith import PairFaith
from pairlens.evaluation.protocol import CurveInfo, Protocol, UnusableFileError
from pairlens.evaluation.records import DrawnMap, Measure, Record, Row, Series, SkippedFile
from pairlens.evaluation.results import Evaluation, MeanCurve, Values
from pairlens.evaluation.rows import MethodRow, method_rows
from pairlens.evaluation.runner import EvaluationInterrupted, run_protocol
from pairlens.evaluation.single_images import ImageOptions, SingleImages
from pairlens.evaluation.statistics import Bootstrap, Interval, bootstrap_mean, paired_difference

__all__ = [
    "DEFAULT_CALL_TIMEOUT_S",
    "Bootstrap",
    "ClassMosaics",
    "CurveInfo",
    "Dataset",
    "DrawnMap",
    "Evaluation",
    "EvaluationInterrupted",
    "ImageOptions",
    "Interval",
    "LabelledImage",
    "MeanCurve",
    "Measure",
    "MethodRow",
    "MosaicOptions",
    "PairFaith",
    "PairMosaics",
    "PairOptions",
    "Protocol",
    "Record",
    "Row",
    "Series",
    "SingleImages",
    "SkippedFile",
    "UnusableFileError",
    "Values",
    "bootstrap_mean",
    "evaluate_images",
    "evaluate_mosaics",
    "evaluate_pair_mosaics",
    "evaluate_pairs",
    "method_rows",
    "paired_difference",
    "read_dataset",
    "run_protocol",
]
