"""How many kernels a turn of a loop launches: the operations in its body, as the compiler left them."""

import re

# What launches nothing: names for values, and views of them.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier"}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*?(?:\s|\))([\w\-]+)\(")


def kernels_in_loops(program: str) -> int:
    """The most operations in the body of any one loop of an optimised program, those of loops inside counted once.

    Args:
        program: `compiled.as_text()`. What it says of a CPU stands for a GPU: there too a fusion is a kernel.
    """
    lines: dict[str, list[str]] = {}
    current = ""
    for line in program.splitlines():
        if (found := COMPUTATION.match(line)) is not None:
            current = found.group(1)
            lines[current] = []
        elif current and line.startswith(" "):
            lines[current].append(line)

    def bodies(name: str) -> list[str]:
        return [body for line in lines[name] for body in re.findall(r" while\(.*body=%?([\w.\-]+)", line)]

    def count(name: str) -> int:
        kinds = [found.group(1) for line in lines[name] if (found := INSTRUCTION.match(line)) is not None]
        return sum(kind not in FREE and kind != "while" for kind in kinds) + sum(map(count, bodies(name)))

    return max((count(body) for name in lines for body in bodies(name)), default=0)
