"""Whole sequences through a stack of layers, and the layers around the neurons."""

from .blocks import ConvBlock as ConvBlock
from .blocks import DirectEncoding as DirectEncoding
from .blocks import NeuronDropout as NeuronDropout
from .blocks import Voting as Voting
from .multistep import MultiStep as MultiStep

__all__ = ["ConvBlock", "DirectEncoding", "MultiStep", "NeuronDropout", "Voting"]
