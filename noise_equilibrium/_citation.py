"""What to cite: BibTeX of the paper and of the methods behind what was used."""

from importlib import import_module

PAPER = "ziyin2024parameter"

ENTRIES = {
    "ziyin2024parameter": """@inproceedings{ziyin2024parameter,
  title     = {Parameter Symmetry and Noise Equilibrium of Stochastic Gradient Descent},
  author    = {Ziyin, Liu and Wang, Mingze and Li, Hongchao and Wu, Lei},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2402.07193}
}""",
    "mccandlish2018empirical": """@misc{mccandlish2018empirical,
  title  = {An Empirical Model of Large-Batch Training},
  author = {McCandlish, Sam and Kaplan, Jared and Amodei, Dario and {OpenAI Dota Team}},
  year   = {2018},
  note   = {arXiv:1812.06162}
}""",
    "smith2021origin": """@inproceedings{smith2021origin,
  title     = {On the Origin of Implicit Regularization in Stochastic Gradient Descent},
  author    = {Smith, Samuel L. and Dherin, Benoit and Barrett, David G. T. and De, Soham},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  note      = {arXiv:2101.12176}
}""",
    "li2022happens": """@inproceedings{li2022happens,
  title     = {What Happens after {SGD} Reaches Zero Loss? -- A Mathematical Framework},
  author    = {Li, Zhiyuan and Wang, Tianhao and Arora, Sanjeev},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  note      = {arXiv:2110.06914}
}""",
    "li2021validity": """@inproceedings{li2021validity,
  title     = {On the Validity of Modeling {SGD} with Stochastic Differential Equations ({SDE}s)},
  author    = {Li, Zhiyuan and Malladi, Sadhika and Arora, Sanjeev},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021},
  note      = {arXiv:2102.12470}
}""",
    "nagel2019data": """@inproceedings{nagel2019data,
  title     = {Data-Free Quantization through Weight Equalization and Bias Correction},
  author    = {Nagel, Markus and van Baalen, Mart and Blankevoort, Tijmen and Welling, Max},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2019},
  note      = {arXiv:1906.04721}
}""",
    "kosson2024rotational": """@inproceedings{kosson2024rotational,
  title     = {Rotational Equilibrium: How Weight Decay Balances Learning Across Neural Networks},
  author    = {Kosson, Atli and Messmer, Bettina and Jaggi, Martin},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2305.17212}
}""",
    "kidger2021on": """@phdthesis{kidger2021on,
  title  = {On Neural Differential Equations},
  author = {Kidger, Patrick},
  year   = {2021},
  school = {University of Oxford},
  note   = {the library diffrax}
}""",
    "rader2024optimistix": """@misc{rader2024optimistix,
  title  = {Optimistix: modular optimisation in {JAX} and {Equinox}},
  author = {Rader, Jason and Lyons, Terry and Kidger, Patrick},
  year   = {2024},
  note   = {arXiv:2402.09983}
}""",
    "alpaydin1998optical": """@misc{alpaydin1998optical,
  title        = {Optical Recognition of Handwritten Digits},
  author       = {Alpaydin, Ethem and Kaynak, Cenk},
  year         = {1998},
  howpublished = {UCI Machine Learning Repository}
}""",
}

USES = {
    "gradient_noise_scale": ("mccandlish2018empirical",),
    "diagnose": ("mccandlish2018empirical",),
    "entropic_loss": ("smith2021origin",),
    "EntropicFlow": ("smith2021origin", "kidger2021on"),
    "rest_on_orbit": ("smith2021origin", "rader2024optimistix"),
    "valley_drift": ("li2022happens",),
    "valley_motion": ("li2022happens",),
    "settle": ("li2022happens",),
    "SVAG": ("li2021validity",),
    "move_along": ("nagel2019data", "rader2024optimistix"),
    "GradientFlow": ("kidger2021on",),
    "orbit_flow": ("kidger2021on",),
    "sde_terms": ("kidger2021on",),
    "rotational_equilibrium": ("kosson2024rotational",),
    "predict": ("kidger2021on", "rader2024optimistix"),
    "digits": ("alpaydin1998optical",),
}


def software() -> str:
    """The entry of this library, with its version."""
    version = import_module("noise_equilibrium").__version__
    return f"""@software{{noise_equilibrium,
  title   = {{noise\\_equilibrium: dynamics of stochastic gradient descent under parameter symmetries}},
  author  = {{{{The noise\\_equilibrium developers}}}},
  version = {{{version}}}
}}"""


def citation(*objects: object) -> None:
    """Prints BibTeX of exactly what was used: the paper, this library, and the methods behind the objects.

    Args:
        objects: functions and classes of this package, and instances of its classes, as in
            `ne.citation(ne.settle, dynamics)`. Without any, the paper and the library.

    Raises:
        ValueError: if an object is not of this package.
    """
    keys = [PAPER]
    for thing in objects:
        named = thing if hasattr(thing, "__name__") else type(thing)
        if not str(getattr(named, "__module__", "")).startswith("noise_equilibrium"):
            raise ValueError(
                f"citation got {thing!r}; expected functions or classes of noise_equilibrium, or instances of them."
            )
        keys += USES.get(getattr(named, "__name__", ""), ())
    print("\n\n".join([*(ENTRIES[key] for key in dict.fromkeys(keys)), software()]))
