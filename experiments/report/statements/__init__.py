"""Every equation, theorem and figure of the paper: what it says, where it lives in the code, and what measures it."""

from experiments.report.statements._statement import Section, Statement
from experiments.report.statements.beyond import BEYOND
from experiments.report.statements.discrete import DISCRETE
from experiments.report.statements.linear import LINEAR
from experiments.report.statements.nonlinear import NONLINEAR
from experiments.report.statements.theory import THEORY

__all__ = ["SECTIONS", "Section", "Statement"]

SECTIONS = (THEORY, LINEAR, NONLINEAR, DISCRETE, BEYOND)
