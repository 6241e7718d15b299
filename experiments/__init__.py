"""One study per claim of the paper; `python -m experiments --list` names them. Nothing imports this package."""
