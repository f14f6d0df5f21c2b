"""The registry of corpus files."""

from dataclasses import dataclass, field


@dataclass
class Case:
    name: str  # file or directory, without `.parquet`
    writer: str
    what: str
    dim: int
    rows: list  # Row; in file order
    write: object  # function of the path
    group: str = ""
    mapping: dict = field(default_factory=dict)  # target column -> source column (`--map`)
    fixed: dict = field(default_factory=dict)  # target column -> value (`--set`)
    extra_columns: list = field(default_factory=list)  # DDL, added to the target of DESIGN section 5
    refused: str = ""  # the whole file must be refused before anything is written: why
    directory: bool = False
    note: str = ""

    @property
    def source(self):
        return self.name if self.directory else f"{self.name}.parquet"


CASES: list[Case] = []


def add(*args, **kw):
    case = Case(*args, **kw)
    if any(other.name == case.name for other in CASES):
        raise ValueError(f"{case.name} twice")
    CASES.append(case)
    return case
