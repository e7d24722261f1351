"""Totals by county and month, straight from the published source files.

Independent of jincai: standard library only, whole pence as integers. Rows without a day of payment break the spec and are
counted apart. Usage: totals.py AUTHORITY=FILE.csv.gz … ; prints JSON.
"""

import csv
import gzip
import json
import sys
from collections import defaultdict


def pence(text):
    sign = -1 if text.startswith("-") else 1
    whole, _, decimals = text.lstrip("-").partition(".")
    return sign * (int(whole) * 100 + int((decimals + "00")[:2]))


totals = defaultdict(lambda: [0, 0])
without_day = 0
credits = 0
for argument in sys.argv[1:]:
    authority, path = argument.split("=", 1)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["pay_date"]:
                without_day += 1
                continue
            amount = pence(row["amount"])
            credits += amount < 0
            cell = totals[authority, row["pay_date"][:7]]
            cell[0] += amount
            cell[1] += 1
json.dump(
    {
        "totals": [[a, m, cell[0], cell[1]] for (a, m), cell in sorted(totals.items())],
        "without_day": without_day,
        "credits": credits,
    },
    sys.stdout,
)
