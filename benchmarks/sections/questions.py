"""Every operation, small and large, as `makemore-ext bench --all` asks."""

from statistics import median

import measure

from makemore_ext.bench import ratios
from makemore_ext.plots import duration
from sections.prose import span, table, times, where


def of_questions() -> str:
    """Torch's time and ours for each question."""
    record = measure.load("bench")
    provenance = record["provenance"]

    answers = {answer["question"]: answer["seconds"] for answer in record["questions"]}
    found = {question: median(ratios(seconds)) for question, seconds in answers.items()}
    rows = [
        {
            "question": question.replace("x", "×"),
            "torch": duration(median(seconds["torch"])),
            "makemore_ext": duration(median(seconds["makemore_ext"])),
            "torch / makemore_ext": times(found[question]),
        }
        for question, seconds in answers.items()
    ]
    behind = dict.fromkeys(name.split(",")[0] for name, ratio in found.items() if ratio < 1)
    lead = f"Torch is faster for {', '.join(behind)}." if behind else "Torch is nowhere faster."
    environment = {"environment": provenance, "date": provenance["date"][:10]}
    return f"""\
![Time of each operation against the number of elements](../benchmarks/results/bench.svg)

Forward and backward, medians of {record["rounds"]} rounds; the picture is of float32. By
`{provenance["command"]}`, in
[bench.json](../benchmarks/results/bench.json); `makemore-ext bench --compare` says what changed
between two such files. {where(environment)}.

{table(rows)}

The ratios are {span(found.values())}. {lead}
"""
