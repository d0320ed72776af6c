"""A warm-up for a Lightning run of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning as L

from .._checks import check_choice, check_number
from ..networks import set_warm_up
from ..neurons import WARM_UPS

if TYPE_CHECKING:
    from .._typing import WarmUp as Kind

__all__ = ["WarmUp"]


class WarmUp(L.Callback):
    """Trains the first epochs under a warm-up of the neurons, and the rest without; see :class:`~snntorch_bpsta.Leaky`.

    It goes by the epoch alone, so a resumed run is where it was.

    Args:
        share: of the epochs (``max_epochs`` of the trainer, which must be set) that are warmed up, 0 to 1; the last of them
            is the one in which the share ends.
        warm_up: "surrogate" or "identity".

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type; at the start of training, a trainer without
            ``max_epochs``.

    Example:
        >>> from snntorch_bpsta.training.callbacks import WarmUp
        >>> import lightning
        >>> trainer = lightning.Trainer(max_epochs=30, callbacks=[WarmUp(1 / 3)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, share: float = 1 / 3, warm_up: Kind = "surrogate") -> None:
        check_choice("warm_up", warm_up, WARM_UPS[1:])
        self.share = check_number("share", share, "a number in [0, 1]", lowest=0, highest=1)
        self.warm_up = warm_up

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs = trainer.max_epochs
        if epochs is None or epochs < 0:
            raise ValueError(f"WarmUp needs the number of epochs, got max_epochs={epochs}: give the trainer one")
        set_warm_up(pl_module, self.warm_up if trainer.current_epoch < self.share * epochs else None)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        set_warm_up(pl_module, None)
