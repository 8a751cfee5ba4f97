"""The dataset card and Croissant metadata say what the files hold, and whose they are."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from foodseg.data.build_report import Tally
from foodseg.data.fetch.sources import LICENCE
from foodseg.data.foodseg103 import Problem
from foodseg.data.references import encode_mask, mask_to_reference
from foodseg.data.samples import Sample, save_samples
from foodseg.report.cards.croissant import COLUMNS
from foodseg.report.cards.dataset import main

FIRST, SECOND = np.zeros((2, 48, 64), bool)
FIRST[4:24, 4:24] = True
SECOND[30:44, 30:60] = True


def sample(split: str, number: int, foods: tuple[str, ...]) -> Sample:
    masks = (FIRST, SECOND)[: len(foods)]
    return Sample(
        sample_id=f"{split}-{number}-0",
        dish_id=str(number),
        split=split,
        image=f"images/{number}.jpg",
        width=64,
        height=48,
        question="Which one?",
        answer="",
        foods=foods,
        references=tuple(mask_to_reference(mask) for mask in masks),
        reference_foods=foods,
        masks=tuple(encode_mask(mask) for mask in masks),
    )


def build(folder, per="ingredient"):
    """Three training questions and one of test, one left out of each; returns the files' hashes."""
    hashes = {}
    train = [sample("train", n, ("egg", "rice")[: n % 2 + 1]) for n in range(3)]
    for split, samples in (("train", train), ("test", [sample("test", 9, ("egg",))])):
        tally = Tally(
            parts_dropped=2, problems=[Problem("questions.jsonl", "line 1", "bad", "fix")]
        )
        for one in samples:
            tally.keep(len(one.references))
        tally.leave_out(f"bad {split}")
        path = folder / f"foodreasonseg_single_{split}.parquet"
        save_samples(samples, path)
        tally.report(split, per, 64).save(path.with_suffix(".report.json"))
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FOODSEG_HOME", str(tmp_path))
    return tmp_path


def written(folder) -> tuple[str, dict]:
    document = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    return (folder / "README.md").read_text(encoding="utf-8"), document


def test_the_card_states_what_the_files_hold(home):
    folder = home / "datasets" / "kitchen"
    hashes = build(folder)
    assert main(["kitchen"]) == 0
    card, _ = written(folder)
    assert "| train | 3 | 3 | 4 | 2 |" in card and "| test | 1 | 1 | 1 | 1 |" in card
    for name, digest in hashes.items():
        assert f"| `{name}` | {(folder / name).stat().st_size} | `{digest}` |" in card
    for row in ("| kept | 3 | 1 |", "| bad train | 1 | 0 |", "| bad test | 0 | 1 |"):
        assert row in card
    assert "dropped: 4." in card and "build reports (`*.report.json`): 2." in card
    assert "one mask and one reference" in card and "fewer than 64 pixels" in card
    assert "published by itself" in card
    for column in pq.read_schema(folder / "foodreasonseg_single_train.parquet"):
        assert f"| `{column.name}` | `{column.type}".split("<")[0] in card
    assert "| `boxes` | `list<list<int32>>` |" in card
    build(folder, per="component")
    assert main(["kitchen"]) == 0 and "Every connected piece" in written(folder)[0]


def test_the_front_matter_is_the_hubs(home):
    folder = home / "datasets" / "kitchen"
    build(folder)
    main(["kitchen"])
    data = DatasetCard.load(folder / "README.md").data
    assert (data.license, data.language, data.size_categories) == ("apache-2.0", "en", ["n<1K"])
    (config,) = data.to_dict()["configs"]
    assert {file["split"] for file in config["data_files"]} == {"train", "test"}
    assert all((folder / file["path"]).is_file() for file in config["data_files"])


def check_croissant(folder, document):
    """What the specification (version 1.0) requires of a document about Parquet files."""
    context = document["@context"]
    assert context["@vocab"] == context["sc"] == "https://schema.org/"
    assert context["cr"] == "http://mlcommons.org/croissant/"
    assert context["conformsTo"] == "dct:conformsTo"
    assert document["@type"] == "sc:Dataset"
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    for key in ("name", "description", "license", "url", "creator", "datePublished", "version"):
        assert document[key], key
    files = {file["@id"]: file for file in document["distribution"]}
    for file in files.values():
        data = (folder / file["contentUrl"]).read_bytes()
        assert (file["@type"], file["encodingFormat"]) == ("cr:FileObject", "application/x-parquet")
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"
    ids = list(files)
    for records in document["recordSet"]:
        assert records["@type"] == "cr:RecordSet"
        check_fields(folder, files, records)
        ids += [records["@id"], *(field["@id"] for field in records["field"])]
    assert len(ids) == len(set(ids)) == 2 + 2 * (1 + len(COLUMNS))


def check_fields(folder, files, records):
    columns = {}
    for field in records["field"]:
        source, column = field["source"], field["source"]["extract"]["column"]
        schema = pq.read_schema(folder / files[source["fileObject"]["@id"]]["contentUrl"])
        kind, repeated = schema.field(column).type, field.get("repeated", False)
        assert (field["@type"], repeated) == ("cr:Field", pa.types.is_list(kind))
        assert field["dataType"] == ("sc:Integer" if "int32" in str(kind) else "sc:Text")
        assert field["description"] and field["@id"] == f"{records['@id']}/{field['name']}"
        columns[column] = schema.names
    assert all(list(columns) == names for names in columns.values())
    assert records["key"]["@id"] in {field["@id"] for field in records["field"]}


@pytest.mark.parametrize("dataset", ["kitchen", "paper", "mine"])
def test_the_metadata_is_croissant(home, dataset):
    folder = home / "datasets" / dataset
    build(folder)
    assert main([str(folder)]) == 0
    check_croissant(folder, written(folder)[1])


def test_drawn_plates_carry_the_kits_licence_and_nobody(home):
    folder = home / "datasets" / "smoke"
    build(folder)
    assert main(["smoke"]) == 0
    card, document = written(folder)
    assert "no photograph was taken, and nobody is in them" in card
    assert document["license"] == ["https://spdx.org/licenses/Apache-2.0.html"]
    assert [creator["name"] for creator in document["creator"]] == ["The foodseg maintainers"]
    assert "Wu et al." not in card and "no photograph was taken" in document["description"]


def test_foodseg103s_set_names_its_sources_and_holds_no_photo(home):
    folder = home / "datasets" / "paper"
    build(folder)
    assert main(["paper"]) == 0
    card, document = written(folder)
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "see-sources")
    assert data["license_link"] in document["license"] and len(document["license"]) == 2
    assert " ".join(LICENCE.split()) in card
    for text in (card, document["description"]):
        assert "not redistributed" in text and "published by itself" in text
    assert "arXiv:2105.05409" in document["citeAs"]


def test_own_data_says_whose_it_is_or_that_nobody_said(home):
    folder = home / "elsewhere" / "mine: a set"
    build(folder)
    assert main([str(folder)]) == 0
    card, document = written(folder)
    data = DatasetCard.load(folder / "README.md").data
    assert (data.license, document["license"]) == ("unknown", ["no licence is stated"])
    assert "Nobody has stated a licence." in card and "apache" not in card.lower()
    assert data.pretty_name == "mine: a set: reasoning segmentation" and not data.language
    options = ["--licence", "cc-by-4.0", "--creator", "Ann", "--creator", "Bob"]
    assert main([str(folder), *options]) == 0
    card, document = written(folder)
    assert DatasetCard.load(folder / "README.md").data.license == "cc-by-4.0"
    assert [creator["name"] for creator in document["creator"]] == ["Ann", "Bob"]
    assert "(Ann, Bob)" in card and "states the licence cc-by-4.0" in card


def test_cards_that_cannot_be_written(home, capsys):
    folder = home / "datasets" / "mine"
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
    assert not (folder / "README.md").exists() and not (folder / "croissant.json").exists()
    assert main(["kitchen", "--licence", "mit"]) == 1
    assert "kitchen: its licence is known" in capsys.readouterr().err


def test_a_card_of_ones_own_is_never_overwritten(home, capsys):
    folder = home / "datasets" / "mine"
    build(folder)
    (folder / "README.md").write_text("# My own words\n")
    assert main([str(folder)]) == 1
    assert "README.md: this card isn't ours to overwrite" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "# My own words\n"
    assert not (folder / "croissant.json").exists()


def test_the_same_files_give_the_same_card(home):
    folder = home / "datasets" / "mine"
    build(folder)
    assert main([str(folder)]) == 0
    first = written(folder)
    assert main([str(folder)]) == 0 and written(folder) == first
    assert not list(folder.glob("*.part"))
