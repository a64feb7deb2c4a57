"""Which jobs are alike: those whose commands differ in numbers alone, in the same image, asking for the same."""

from __future__ import annotations

import re

from runners.spec import JobSpec

#: Numbers, also with a sign, a fraction or an exponent; and long hexadecimal names, as of commits and runs.
_VARIABLE = re.compile(r"\b[0-9a-f]{8,}\b|[-+]?\d+(?:\.\d+)*(?:[eE][-+]?\d+)?")
#: Characters of a command that are looked at; what follows seldom makes another kind of job.
_LOOKED_AT = 500

Kind = str


def kind_of(spec: JobSpec) -> Kind:
    """What jobs like this one have in common, as text that reads well enough to be shown."""
    command = spec.command if isinstance(spec.command, str) else " ".join(spec.command)
    parts = [_VARIABLE.sub("#", command[:_LOOKED_AT])]
    if spec.run_in == "container":
        parts.append(f"in {spec.image}")
    if spec.num_gpus:
        parts.append(f"{spec.num_gpus} cards" + (" shared" if spec.gpu_shared else ""))
    asked = (
        ("model", spec.gpu_model),
        ("capability", spec.gpu_capability),
        ("gpu_memory", spec.gpu_memory),
        ("cpus", spec.cpus),
        ("memory", spec.memory),
    )
    parts += [f"{name} {value}" for name, value in asked if value is not None]
    return "; ".join(parts)
