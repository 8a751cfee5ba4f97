"""The rooms of the package: imports run one way (the order is ORDER's), and there is no circle."""

from graphlib import TopologicalSorter

from foodseg.common.files import PROJECT
from foodseg.common.imports import imported_modules

ORDER = (
    {"common"}, {"data"}, {"models"}, {"rl"}, {"methods", "presets"}, {"recipes", "system"},
    {"training", "evaluation"}, {"supervised", "kitchen"}, {"report", "doctor"},
    {"segment", "bench", "dry_run", "clean", "merge", "site"},
    {"ablations"}, {"claims", "demo"}, {"replay"},
)  # fmt: skip


def test_imports_run_from_right_to_left_and_never_in_a_circle():
    rank = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
    graph = {}
    for file in PROJECT.glob("foodseg/**/*.py"):
        module = ".".join(file.relative_to(PROJECT).with_suffix("").parts)
        # also what is imported for type checking
        source = file.read_text().replace("if TYPE_CHECKING:", "if True:")
        graph[module] = set(imported_modules(source)) - {"foodseg"}
        for target in graph[module]:
            here, there = module.split(".")[1], target.split(".")[1]
            assert here == there or rank[there] < rank[here], f"{module} imports {target}"
    TopologicalSorter(graph).prepare()  # raises CycleError
