"""A table with every kind of column, and rows of it with every kind of value."""

import numpy as np

from tfcama.types import CHILD, COPARENT, PARENT, Column, InputSpec

COLUMNS = (
    Column("blood pressure", (PARENT,), loc=120.0, scale=15.0, indicator=True),
    Column("Sex", (PARENT,), categories=("f", "m"), indicator=True),
    Column("dose", (COPARENT,), loc=0.5, scale=0.25),
    Column("1st", (COPARENT,), categories=("no", "yes", "größer")),
    Column("age", (PARENT, COPARENT), loc=50.0, scale=10.0),
    Column("pulse", (CHILD,), loc=-70.0, scale=8.0),
    Column("grade", (CHILD,), categories=("1", "2", "3")),
    Column("unused", (), loc=1.0, scale=2.0),
)
NAMES = ("blood_pressure", "Sex", "dose", "column_1st", "age", "pulse", "grade", "unused")
# Present, missing and unseen values; "2.0" is the category "2" wherever it comes from.
ROWS = {
    "blood pressure": [110.0, np.nan, 150.5, 121.0, 99.0, np.nan],
    "Sex": ["f", "m", None, "x", "m", None],
    "dose": [0.1, 0.75, np.nan, 0.5, 1e-30, np.nan],
    "1st": ["no", "größer", "yes", None, "maybe", None],
    "age": [20.0, 30.0, np.nan, 1e4, -33.3, np.nan],
    "pulse": [-80.0, np.nan, -60.5, -70.0, 0.0, np.nan],
    "grade": ["1", "2.0", "4", None, "3", None],
    "unused": [0.0, np.nan, 1.0, 5.0, 2.0, np.nan],
}
SIZE = 6


def table_spec(columns=COLUMNS):
    width = sum(column.width for column in columns)
    return InputSpec((width,), ("ill", "well"), None, columns, "health")


def sent(**changed):
    """ROWS as a client sends them, some inputs changed."""
    values = {}
    for column, name in zip(COLUMNS, NAMES, strict=True):
        rows = ROWS[column.name]
        if column.numeric:
            values[name] = np.array(rows, np.float32)
        else:
            values[name] = np.array(["" if value is None else value for value in rows], object)
    return values | changed
