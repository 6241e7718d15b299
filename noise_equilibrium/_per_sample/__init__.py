"""What the program of a loss tells about the gradient of every sample: the room that reads programs.

`_linear_view` says how a value holds a parameter; `_actions` what an equation may do to such values, and `_rules` what
each primitive does (`_linear_rules`, `_contraction_rules`, `_call_rules`); `_reading` reads a program by these rules,
once, and `_tapped_loss` runs it as it was read. `_parameter_gradient` holds the gradients of a parameter as the outer
products of `_outer_products`; `_gram_plan` takes their Grams in one pass over the data, in `_chunks` as large as
`_activation_bytes` allows.

To teach it a primitive: a rule, its line in `_rules.RULES` with all parameters that are known, and a loss that spells
it in tests/test_default_deny.py. Until then its parameters escape, which costs speed and no truth.
"""

from ._chunks import map_over_samples, samples_in, sum_over_samples
from ._explain import Explanation, LegPath, explain
from ._gram_plan import gradient_grams, plan
from ._outer_products import LegGram, gram_of
from ._silence import Silence, warn_user

__all__ = [
    "Explanation",
    "LegGram",
    "LegPath",
    "Silence",
    "explain",
    "gradient_grams",
    "gram_of",
    "map_over_samples",
    "plan",
    "samples_in",
    "sum_over_samples",
    "warn_user",
]
