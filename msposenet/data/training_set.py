"""The training samples that a configuration describes: from the public files, or from a pack made of them."""

from __future__ import annotations

from collections.abc import Callable

from msposenet.config import Config
from msposenet.data.merging import read_training
from msposenet.data.pack_form import TABLE, UNFINISHED
from msposenet.data.packed import open_pack
from msposenet.data.pictures import FilePictures
from msposenet.data.samples import TrainingSamples
from msposenet.data.sampling import SampleOrder
from msposenet.errors import ConfigError
from msposenet.geometry import Convention


def training_samples(config: Config, say: Callable[[str], None] = lambda line: None) -> TrainingSamples:
    """All of data.train, ready to be loaded; raises ConfigError and DataError."""
    seed, data = config.train.seed, config.data
    if data.pack is not None:
        if not any((data.pack / name).is_file() for name in (TABLE, UNFINISHED)):
            raise ConfigError(
                f"data.pack: {data.pack} is no pack (it has no pack.json); make one: msposenet pack CONFIG {data.pack}"
            )
        pack = open_pack(data.pack, config, say)
        records, pictures, order = pack.records, pack.pictures, pack.order(seed)
    else:
        records = read_training(config, say)
        pictures = FilePictures(records, reduced=data.reduced_decode, keep=data.share_decode)
        sampling = [origin.sampling for origin in records.origins]
        together = records.image_index if data.share_decode else None
        order = SampleOrder(seed, records.origin_index, sampling, together)
    convention = Convention(config.codec.convention)
    return TrainingSamples(records, data.input_wh, convention, config.augmentation, seed, data.enlarge, pictures, order)
