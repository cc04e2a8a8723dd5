"""Every operation, small and large, as `makemore-ext bench --all` asks."""

from statistics import median
from typing import Any

import measure

from makemore_ext.bench import ratios
from sections.prose import duration, span, table, times, where


def of_questions() -> str:
    """Torch's time and ours for each question."""
    record = measure.load("bench")
    provenance = record["provenance"]

    def row(answer: dict[str, Any]) -> dict[str, str]:
        seconds = {name: median(rounds) for name, rounds in answer["seconds"].items()}
        return {
            "question": answer["question"].replace("x", "×"),
            "torch": duration(seconds["torch"]),
            "makemore_ext": duration(seconds["makemore_ext"]),
            "torch / makemore_ext": times(median(ratios(answer["seconds"]))),
        }

    found = {
        answer["question"]: median(ratios(answer["seconds"])) for answer in record["questions"]
    }
    behind = dict.fromkeys(name.split(",")[0] for name, ratio in found.items() if ratio < 1)
    lead = f"Torch is faster for {', '.join(behind)}." if behind else "Torch is nowhere faster."
    environment = {"environment": provenance, "date": provenance["date"][:10]}
    return f"""\
![Time of each operation against the number of elements](../benchmarks/results/bench.svg)

Forward and backward, medians of {record["rounds"]} rounds; the picture is of float32. By
`{provenance["command"]}`, in
[bench.json](../benchmarks/results/bench.json); `makemore-ext bench --compare` says what changed
between two such files. {where(environment)}.

{table([row(answer) for answer in record["questions"]])}

The ratios are {span(found.values())}. {lead}
"""
