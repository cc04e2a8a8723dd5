"""How far results are from float64's."""

import measure

from sections.prose import number, table, where


def of_accuracy() -> str:
    """The errors of every operation, in a picture and a table."""
    record = measure.load("accuracy")
    results = record["results"]
    rows = [
        {
            "operation": row["case"],
            "dtype": row["dtype"],
            "result": f"`{row['result']}`" if "_" in row["result"] else row["result"],
            "makemore_ext": row["ours median"],
            "torch": row["torch median"],
            "makemore_ext, worst": row["ours worst"],
            "torch, worst": row["torch worst"],
        }
        for row in results
    ]
    behind = [row for row in results if row["ours worst"] > row["torch worst"]]
    lead = max(results, key=lambda row: row["torch worst"] / row["ours worst"])
    smaller = f"{len(results) - len(behind)} of {len(results)} results"
    return f"""\
![Errors of makemore_ext and of torch, a row for each result](../benchmarks/results/accuracy.svg)

By `python benchmarks/accuracy.py`, in
[accuracy.json](../benchmarks/results/accuracy.json), {record["draws"]} draws. {where(record)}. Our
worst error is no larger than torch's for {smaller}; the largest of ours is
{number(max(row["ours worst"] for row in results))}, of torch's
{number(lead["torch worst"])}: {lead["case"]}, {lead["result"]}, {lead["dtype"]}.

{table(rows)}
"""
