"""A run's folder: what was written is read back as it was, or refused, or written again."""

import random
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from faults import each_fault
from safetensors.torch import load, save_file

from foodseg.common.errors import DataError
from foodseg.common.files import read_lines
from foodseg.common.lock import alone
from foodseg.presets import SMOKE
from foodseg.rl.dynamic_sampling import NoSignalError
from foodseg.training.run_folder import claim, finish, restore, save_checkpoint, take_steps

PRESET = replace(SMOKE, steps=5, checkpoint_every=2)
CONFIG = {"preset": {"name": "smoke", "device": "cpu", "steps": 5}, "recipe": {"name": "toy"}}
WEIGHTS = "adapter/adapter_model.safetensors"


class Toy:
    """A learner without a model: its weight follows from every step before."""

    sampled = 0

    def __init__(self, steps=5):
        self.steps, self.weight = steps, torch.zeros(8)

    def ends(self, steps):
        return steps >= self.steps

    def step(self, index):
        generator = torch.Generator().manual_seed(index)
        self.weight = self.weight * 1.25 + torch.randn(8, generator=generator)
        seconds = {"seconds_update": 1.5, "seconds_rollout": 0.5}
        return {"loss": self.weight.sum().item()} | seconds

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, state):
        self.weight = state["weight"]

    def save(self, folder):
        save_file({"weight": self.weight}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")


def run(folder, learner=None, config=CONFIG):
    """What every training does with its folder; the learner's weight in the end."""
    if claim(folder, config):
        return load((folder / WEIGHTS).read_bytes())["weight"]
    learner = learner or Toy(config["preset"]["steps"])
    rows = take_steps(folder, "toy", PRESET, learner, restore(folder, learner))
    finish(folder, config, len(rows), rows, learner)
    return load((folder / WEIGHTS).read_bytes())["weight"]


@pytest.fixture()
def folder(tmp_path):
    return tmp_path / "runs" / "toy-seed0"


def interrupted(folder, after=3):
    """A run that ended in the middle of a step."""

    class Stopped(Toy):
        def step(self, index):
            if index == after:
                raise KeyboardInterrupt
            return super().step(index)

    with pytest.raises(KeyboardInterrupt):
        run(folder, Stopped())
    return folder


def damaged(file, how):
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
    file.write_bytes({"emptied": b"", "halved": data[: len(data) // 2]}.get(how, data))


DAMAGES = ("emptied", "halved", "flipped")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_each_time(folder, how):
    expected = run(folder.with_name("whole"))
    damaged(interrupted(folder) / "state.pt", how)
    for _ in range(2):
        with pytest.raises(DataError, match=r"toy-seed0/state\.pt: it was cut or changed .*remove"):
            run(folder)
    (folder / "state.pt").unlink()
    assert torch.equal(run(folder), expected)


def test_no_flipped_bit_of_a_checkpoint_is_believed(folder, campaign):
    file = interrupted(folder) / "state.pt"
    whole = file.read_bytes()
    tries = campaign("state.pt with one bit flipped: refused", 100, 5_000)
    for bit in random.Random(0).sample(range(8 * len(whole)), tries):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(DataError, match="state"):
            restore(folder, Toy(), writes=False)
    file.write_bytes(whole)
    assert [row["step"] for row in restore(folder, Toy())] == [1, 2]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "name", [WEIGHTS, "adapter/adapter_config.json", "log.jsonl", "result.json"]
)
def test_a_finished_run_with_a_damaged_file_writes_it_again(folder, name, how, capsys):
    expected = run(folder)
    log, taken = read_lines(folder / "log.jsonl"), []
    damaged(folder / name, how)

    class Counted(Toy):
        def step(self, index):
            taken.append(index)
            return super().step(index)

    assert torch.equal(run(folder, Counted()), expected) and taken == []
    assert read_lines(folder / "log.jsonl") == log
    assert name in capsys.readouterr().out
    assert claim(folder, CONFIG)["files"].keys() == {
        *(WEIGHTS, "adapter/adapter_config.json", "log.jsonl")
    }


def test_an_adapter_that_lost_a_file_is_not_finished(folder):
    run(folder)
    (folder / WEIGHTS).unlink()
    assert claim(folder, CONFIG) is None and not (folder / "result.json").exists()


@pytest.mark.parametrize("how", [*DAMAGES, "removed"])
def test_a_checkpoint_of_unknown_settings_is_moved_aside(folder, how, capsys):
    expected = run(folder.with_name("whole"))
    state = (interrupted(folder) / "state.pt").read_bytes()
    if how == "removed":
        (folder / "config.json").unlink()
    else:
        damaged(folder / "config.json", how)
    assert torch.equal(run(folder), expected)
    [aside] = folder.parent.glob("toy-seed0.before-*")
    assert (aside / "state.pt").read_bytes() == state
    said = capsys.readouterr().out
    assert "toy-seed0: " in said and "; the old run is in toy-seed0.before-" in said


def test_a_broken_log_is_named_by_file_and_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(DataError, match=r"log\.jsonl: line 2: it is no JSON .*start what writes"):
        read_lines(tmp_path / "log.jsonl")


def test_a_weight_that_is_no_number_is_never_saved_as_finished(folder):
    class Ruined(Toy):
        def step(self, index):
            row = super().step(index)
            self.weight[3] = torch.nan if index == 4 else self.weight[3]
            return row

    with pytest.raises(DataError, match="toy-seed0: step 5 made a weight NaN .*learning rate"):
        run(folder, Ruined())
    assert not (folder / "result.json").exists() and not (folder / "adapter").exists()
    assert torch.equal(run(folder), run(folder.with_name("whole")))  # from the checkpoint before


NAN, INF = torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf])


@pytest.mark.parametrize(
    ("state", "saved"),
    [
        ({"adapter": [torch.ones(2), NAN]}, False),
        ({"updater": {"adamw": {"state": {0: {"exp_avg": INF}}}}}, False),
        ({"sampler": {"queue": (-INF, 3, None)}}, True),  # Dr. Seg's
    ],
)
def test_a_number_that_is_none_is_found_wherever_it_stands(tmp_path, state, saved):
    learner = SimpleNamespace(state_dict=lambda: state)
    refused = pytest.raises(DataError, match="step 1 made a weight NaN")
    with nullcontext() if saved else refused:
        save_checkpoint(tmp_path, [{"step": 1}], learner)
    assert (tmp_path / "state.pt").exists() == saved


def test_the_results_seconds_are_all_steps(folder):
    run(folder)
    assert claim(folder, CONFIG)["seconds"] == 10.0


def test_a_damaged_checkpoint_is_not_continued_by_a_longer_run(folder):
    run(folder)
    state = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(state[: len(state) // 2])
    more = CONFIG | {"preset": CONFIG["preset"] | {"steps": 9}}
    with pytest.raises(DataError, match=r"state\.pt: it was cut or changed"):
        claim(folder, more, longer)
    assert folder.exists() and not [*folder.parent.glob("*.before-*")]


def longer(before, config, rows):
    return before["recipe"] == config["recipe"] and len(rows) == before["preset"]["steps"]


def test_a_finished_run_goes_on_for_more_steps(folder, capsys):
    more = CONFIG | {"preset": CONFIG["preset"] | {"steps": 8}}
    expected = run(folder.with_name("whole"), config=more)
    run(folder)
    assert claim(folder, more, longer) is None and not (folder / "result.json").exists()
    assert "toy-seed0: it goes on after step 5" in capsys.readouterr().out
    assert torch.equal(run(folder, config=more), expected)
    assert claim(folder, more, longer)["steps"] == 8
    assert [row["step"] for row in read_lines(folder / "log.jsonl")] == list(range(1, 9))
    # Without its checkpoint it can't go on, and is kept.
    (folder / "state.pt").unlink()
    claim(folder, more | {"preset": more["preset"] | {"steps": 9}}, longer)
    [aside] = folder.parent.glob("toy-seed0.before-*")
    assert (aside / "result.json").exists()


@pytest.mark.parametrize("after", [0, 3])
def test_a_run_without_signal_keeps_what_it_has_and_says_what_helps(folder, after):
    class Silent(Toy):
        def step(self, index):
            if index == after:
                raise NoSignalError("0 of 8 groups.")
            return super().step(index)

    for _ in range(2):  # nothing is lost by trying again
        with pytest.raises(NoSignalError, match="toy-seed0: 0 of 8 groups. .* max_rounds") as error:
            run(folder, Silent())
        assert ("after step 3 is in adapter/" in str(error.value)) == bool(after)
    assert (folder / WEIGHTS).exists() == bool(after)
    assert not (folder / "result.json").exists()
    if after:
        toy = Toy()
        assert len(restore(folder, toy)) == 3
        assert torch.equal(load((folder / WEIGHTS).read_bytes())["weight"], toy.weight)
    assert torch.equal(run(folder), run(folder.with_name("whole")))


def test_a_fault_at_any_change_of_a_file_costs_no_bit(folder):
    def work():
        with alone(folder):
            return run(folder)

    expected, cases = run(folder.with_name("whole")), 0
    for told in each_fault(work, folder.parent):
        cases += 1
        if (folder / "result.json").exists():
            assert claim(folder, CONFIG), told  # never beside less than all of it
        kept = restore(folder, Toy(), writes=False)  # raises nothing
        assert torch.equal(work(), expected), told
        rows = read_lines(folder / "log.jsonl")
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5] and rows[: len(kept)] == kept
        left = {path.name for path in folder.iterdir()}
        assert left == {"config.json", "log.jsonl", "state.pt", "adapter", "result.json"}, told
    assert cases > 90
