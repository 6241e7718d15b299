"""Where SGD goes along the minima of a loss, where it settles, and the loss it minimises one order further."""

from ._drift import valley_drift, valley_motion
from ._entropic import entropic_loss
from ._entropic_flow import EntropicFlow
from ._motion import ValleyMotion
from ._settle import Settled, settle

__all__ = ["EntropicFlow", "Settled", "ValleyMotion", "entropic_loss", "settle", "valley_drift", "valley_motion"]
