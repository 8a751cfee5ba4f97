"""The dataset card says what the files hold, and whose they are."""

import hashlib
from dataclasses import replace

import pyarrow.parquet as pq
import test_report
from huggingface_hub import DatasetCard

from foodseg.data.build_report import Tally
from foodseg.data.fetch.sources import LICENCE
from foodseg.data.foodseg103 import Problem
from foodseg.data.samples import Sample, save_samples
from foodseg.report.cards.dataset import main


def sample(split: str, number: int, foods: tuple[str, ...]) -> Sample:
    one = test_report.sample(number, foods)
    two = {"references": one.references * len(foods), "masks": one.masks * len(foods)}
    return replace(one, sample_id=f"{split}-{number}-0", split=split, **two)


def build(folder, per="ingredient"):
    """Three training questions and one of test, one left out of each; returns the files' hashes."""
    hashes = {}
    train = [sample("train", n, ("egg", "rice")[: n % 2 + 1]) for n in range(3)]
    for split, samples in (("train", train), ("test", [sample("test", 9, ("egg",))])):
        problem = Problem("questions.jsonl", "line 1", "bad", "fix")
        tally = Tally(parts_dropped=2, problems=[problem])
        for one in samples:
            tally.kept += 1
            tally.references += len(one.references)
        tally.left_out[f"bad {split}"] += 1
        path = folder / f"foodreasonseg_single_{split}.parquet"
        save_samples(samples, path)
        tally.report(split, per, 64).save(path.with_suffix(".report.json"))
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def write(folder, *arguments) -> tuple[DatasetCard, str]:
    """The card that the command leaves in a folder, and its text, however its lines are broken."""
    dataset = folder.name if folder.name in ("smoke", "kitchen", "paper") else str(folder)
    assert main([dataset, *arguments]) == 0
    card = DatasetCard.load(folder / "README.md")
    return card, " ".join(card.text.split())


def test_the_card_states_what_the_files_hold(empty_home):
    folder = empty_home / "datasets" / "kitchen"
    hashes = build(folder)
    card, words = write(folder)
    rows = ["| train | 3 | 3 | 4 | 2 |", "| test | 1 | 1 | 1 | 1 |", "| kept | 3 | 1 |"]
    rows += ["| bad train | 1 | 0 |", "| bad test | 0 | 1 |", "| `boxes` | `list<list<int32>>` | "]
    for name, digest in hashes.items():
        rows.append(f"| `{name}` | {(folder / name).stat().st_size} | `{digest}` |")
    for column in pq.read_schema(folder / "foodreasonseg_single_train.parquet"):
        rows.append(f"| `{column.name}` | `{column.type}".split("<")[0])
    for row in rows:
        assert f"\n{row}" in card.text
    assert "dropped: 4." in words and "build reports (`*.report.json`): 2." in words
    assert "one mask and one reference" in words and "fewer than 64 pixels" in words
    assert "published by itself" in words
    data = card.data  # the front matter, as the hub wants it
    assert (data.license, data.language, data.size_categories) == ("apache-2.0", "en", ["n<1K"])
    (config,) = data.to_dict()["configs"]
    assert {file["split"] for file in config["data_files"]} == {"train", "test"}
    assert all((folder / file["path"]).is_file() for file in config["data_files"])
    build(folder, per="component")
    assert "Every connected piece" in write(folder)[1]


def test_drawn_plates_carry_the_kits_licence_and_nobody(empty_home):
    folder = empty_home / "datasets" / "smoke"
    build(folder)
    card, words = write(folder)
    assert "no photograph was taken, and nobody is in them" in words
    assert "under Apache-2.0" in words and card.data.license == "apache-2.0"
    assert "Wu et al." not in words


def test_foodseg103s_set_names_its_sources_and_holds_no_photo(empty_home):
    folder = empty_home / "datasets" / "paper"
    build(folder)
    card, words = write(folder)
    data = card.data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "see-sources")
    assert data["license_link"] in words and " ".join(LICENCE.split()) in words
    assert "not redistributed" in words and "published by itself" in words
    assert "arXiv:2105.05409" in words.partition("## Citation")[2]


def test_own_data_says_whose_it_is_or_that_nobody_said(empty_home):
    folder = empty_home / "elsewhere" / "mine: a set"
    build(folder)
    card, words = write(folder)
    assert card.data.license == "unknown" and not card.data.language
    assert "Nobody has stated a licence." in words and "apache" not in words.lower()
    assert "(nobody has said who)" in words and "## Citation" not in words
    assert card.data.pretty_name == "mine: a set: reasoning segmentation"
    options = ["--licence", "cc-by-4.0", "--creator", "Ann", "--creator", "Bob"]
    card, words = write(folder, *options)
    assert card.data.license == "cc-by-4.0"
    assert "(Ann, Bob)" in words and "states the licence cc-by-4.0" in words


def test_cards_that_cannot_be_written(empty_home, capsys):
    folder = empty_home / "datasets" / "mine"
    assert main([str(folder)]) == 1
    assert "train.parquet: the file is missing; build it first" in capsys.readouterr().err
    build(folder)
    save_samples([], folder / "foodreasonseg_single_test.parquet")
    assert main([str(folder)]) == 1
    assert "it has 0 questions and its report says 1" in capsys.readouterr().err
    report = folder / "foodreasonseg_single_test.report.json"
    for text in ("{", "[]", '{"problems": [5]}', '{"problems": [], "split": "test"}'):
        report.write_text(text)
        assert main([str(folder)]) == 1
        assert "report.json: no readable build report" in capsys.readouterr().err
    assert not (folder / "README.md").exists()
    assert main(["kitchen", "--licence", "mit"]) == 1
    assert "kitchen: its licence is known" in capsys.readouterr().err


def test_only_a_card_of_the_kits_own_is_overwritten(empty_home, capsys):
    folder = empty_home / "datasets" / "mine"
    build(folder)
    first = write(folder)[0].content
    assert write(folder)[0].content == first  # the same files give the same card
    assert len(list(folder.iterdir())) == 5  # two splits with their reports, and the card
    card = folder / "README.md"
    card.write_text("# My own words\n")
    assert main([str(folder)]) == 1
    assert "README.md: this card isn't ours to overwrite" in capsys.readouterr().err
    assert card.read_text() == "# My own words\n"
