"""Training on Lightning: the paper's loss and recipes, exact resume, comparisons over seeds. Needs the extra `train`."""

from .losses import rate_cross_entropy_loss, rate_mse_loss
from .recipes import RECIPES, VARIANTS, Recipe

__all__ = ["RECIPES", "VARIANTS", "Recipe", "rate_cross_entropy_loss", "rate_mse_loss"]
