"""Score a network on the configured validation sets, each by its own metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

import numpy as np

from msposenet.config import Config, Source
from msposenet.data.merging import read_all
from msposenet.data.records import Records
from msposenet.data.unify import JointMap, joint_map
from msposenet.distributed.group import Group
from msposenet.errors import DataError
from msposenet.evaluation.coco import Scores
from msposenet.evaluation.ground_truth import read_ground_truth
from msposenet.evaluation.scores import MetricScores
from msposenet.inference.engine import Engine
from msposenet.inference.metrics import METRICS, SAME_FORM, metric_of
from msposenet.inference.validate import Boxes, Estimates, estimate
from msposenet.progress import Reporter
from msposenet.skeletons import Skeleton


@dataclass(frozen=True)
class ValidationSet:
    """One set to be scored: its people with their own joints, the joints' places in the network's skeleton, boxes."""

    source: Source
    native: Records
    joints: JointMap
    boxes: Boxes

    @property
    def title(self) -> str:
        return self.source.title


@dataclass(frozen=True)
class Scored:
    """A set's scores, and the result list they were computed from (COCO's form, the set's own joints)."""

    title: str
    scores: Union[Scores, MetricScores]
    results: list[dict]


def validation_sets(config: Config, skeleton: Skeleton, say: Callable[[str], None]) -> list[ValidationSet]:
    """The sets of data.val for a network with the joints of `skeleton`; raises DataError and ConfigError."""
    found = []
    for part in read_all(config.data.val, config, "val", say):
        source, native = part.source, part.records
        joints = joint_map(native.skeleton, skeleton, source.joints, source.title)
        metric = metric_of(source)
        category_id = 1
        if metric in SAME_FORM and source.format in SAME_FORM:
            category_id = read_ground_truth(source.annotations, native.skeleton).category_id
        boxes = Boxes.choose(native, source, config, category_id, say)
        validation = ValidationSet(source, native, joints, boxes)
        METRICS[metric].check(metric, validation)
        found.append(validation)
    return found


def score_set(
    engine: Engine,
    validation: ValidationSet,
    config: Config,
    reporter: Reporter,
    between: Callable[[], None] = lambda: None,
    group: Group | None = None,
) -> Scored | None:
    """The network's scores on one set. `between` is called between batches and may raise Terminated to break off.

    The workers of `group` share the pictures; rank 0 scores, the others get None. Raises DataError when more than
    data.max_bad_fraction of the pictures cannot be read: their people would count as missed.
    """
    with reporter.task(f"estimating {validation.title}") as advance:

        def batch_done(done: int, total: int) -> None:
            advance(done, total)
            between()

        estimates = estimate(engine, validation.boxes.records, config.data.enlarge, batch_done, group)
    if estimates is None:
        return None
    if group is not None:
        group.phase(f"scoring {validation.title}", config.train.start_timeout)
    _check_damage(estimates, validation, config)
    for reason in estimates.bad.values():
        reporter.say(f"skipped: {reason}")
    scores, results = METRICS[metric_of(validation.source)].score(validation, estimates, config)
    return Scored(validation.title, scores, results)


def _check_damage(estimates: Estimates, validation: ValidationSet, config: Config) -> None:
    pictures = len(np.unique(validation.boxes.records.image_index))
    if len(estimates.bad) > config.data.max_bad_fraction * pictures:
        shown = "; ".join(list(estimates.bad.values())[:5])
        raise DataError(
            f"{len(estimates.bad)} of {pictures} pictures of {validation.source.annotations} cannot be read ({shown}); "
            "repair them, or raise data.max_bad_fraction to score without them"
        )


def score_sets(engine: Engine, config: Config, reporter: Reporter) -> list[Scored]:
    """The scores on every set of data.val, read here."""
    sets = validation_sets(config, engine.skeleton, reporter.say)
    return [score_set(engine, validation, config, reporter) for validation in sets]


def overall(scored: list[Scored]) -> float:
    """What checkpoints are compared by: the mean over the sets of each one's headline figure, 0 to 1."""
    return float(np.mean([part.scores.main[1] for part in scored]))
