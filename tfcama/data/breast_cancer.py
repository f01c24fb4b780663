"""`breast_cancer`: scikit-learn's 569 real biopsies with an assumed causal graph, a worked example.

"Breast Cancer Wisconsin (Diagnostic)" (Street, Wolberg and Mangasarian, 1993): measurements of cell
nuclei in an image of a fine needle aspirate. The graph, in breast_cancer.dot, is an assumption of
ours and not a finding: the diagnosis causes how the nuclei look; perimeter and area follow from the
radius, so they are outside the diagnosis' Markov blanket and are not used. An instrument that is
recalibrated (another stain, another scanner) shifts its column.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from sklearn import datasets

from tfcama.data import csv_table, graphs
from tfcama.data.base import DataConfig, Request, Source

DAG = Path(__file__).with_name("breast_cancer.dot")
TARGET = "diagnosis"


def table() -> pd.DataFrame:
    """The table as a CSV would hold it: 30 measurements and `diagnosis`."""
    raw = datasets.load_breast_cancer(as_frame=True)
    frame = raw.data.rename(columns=lambda name: name.replace(" ", "_"))
    frame[TARGET] = raw.target.map(dict(enumerate(raw.target_names)))
    return frame


def load(config: DataConfig, request: Request) -> Source:
    """The table under the assumed graph; 25 % are the test split, stratified, always the same."""
    del config
    return csv_table.source(table(), graphs.from_dag(DAG, TARGET), request)
