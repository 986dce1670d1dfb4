"""Tests of the page of results: it follows from the stored files, and a wrong file is named."""

import json
from pathlib import Path

import pytest

from ds2f.errors import InputError
from launch.report import ablation, compare, results

ROOT = Path(__file__).parents[2]
STORED = ROOT / "configs/results"
PAGE = (STORED / "README.md").read_text(encoding="utf-8")


def between(name):
    return PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0].splitlines()


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def run(seed, word_errors, char_errors=25, **changes):
    """The results.json of a run, on a test set of 200 words and 500 characters."""
    counts = {"word_errors": word_errors, "words": 200, "char_errors": char_errors, "chars": 500}
    found = {"name": "x", "ranks": 1, "device": "CPU", "amp": "O2 bf16", "torch": "2.13.0+cpu", "seed": seed}
    found |= {"epochs": 60, "wall_seconds": 3600.0, "utterances_per_second": 15.06}
    return found | {"val": counts | {"wer": 0.0}, "test": counts | {"wer": 0.0}} | changes


@pytest.fixture
def folder(tmp_path):
    """A folder of results: one recipe with three seeds, and one published system."""
    system = {"name": "theirs", "wer": 9.5, "fps": 22, "notes": {"fps": "a"}, "source": "a page"}
    published = {"words": 200, "chars": 500, "notes": {"a": "Doubtful."}, "systems": [system]}
    write(tmp_path / "published.json", published)
    write(tmp_path / "an4/mine/recipe.json", {"name": "ours", "command": "train it", "source": "here"})
    for seed, errors in ((1, 8), (2, 12), (10, 13)):
        write(tmp_path / f"an4/mine/{seed}.json", run(seed, errors))
    return tmp_path


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_of_a_recipe_become_mean_and_range(folder):
    header, rule, ours, theirs, empty, notes = results.rows(folder)
    assert cells(header)[:4] == ["name", "WER %", "CER %", "words wrong"]
    assert rule == "|---" * 9 + "|"
    assert cells(ours) == [
        *("**ours**, greedy; 3 runs, each 60 min", "5.50 (4.00 to 6.50)", "5.00 (5.00 to 5.00)", "11.0 (8 to 13)"),
        *("15.1", "60", "O2 bf16", "2.13.0", "`train it` (`--training.seed`: 1, 2, 10)"),
    ]
    assert cells(theirs) == ["theirs", "9.5", "", "", "22 (a)", "", "", "", "a page"]
    assert (empty, notes) == ("", "(a) Doubtful.")


def test_one_run_has_three_digits(folder):
    for seed in (1, 10):
        (folder / f"an4/mine/{seed}.json").unlink()
    ours = cells(list(results.rows(folder))[2])
    assert ours[:4] == ["**ours**, greedy; one run, 60 min", "6.000", "5.000", "12"]
    assert ours[-1] == "`train it` (seed 2)"


def test_another_decoding_of_the_same_models_needs_only_the_counts(folder):
    about = {"name": "ours, LM", "command": "evaluate it", "source": "here", "model": "mine", "decoding": "beam of 100"}
    write(folder / "an4/mine_lm/recipe.json", about)
    for seed in (1, 2):
        write(folder / f"an4/mine_lm/{seed}.json", {"test": run(seed, 4)["test"]})
    first, second = (cells(line) for line in list(results.rows(folder))[2:4])
    assert first[0].startswith("**ours, LM**, beam of 100; 2 runs"), "lowest error rate first"
    assert first[3:6] == ["4.0 (4 to 4)", "15.1", "60"]
    assert second[0].startswith("**ours**, greedy")


def test_recipes_with_synthetic_speech_come_last(folder):
    about = {"name": "more", "command": "train", "source": "here", "synthetic_speech": True}
    write(folder / "an4/a/recipe.json", about)
    write(folder / "an4/a/1.json", run(1, 1))
    names = [cells(line)[0] for line in list(results.rows(folder))[2:4]]
    assert names == [
        "**ours**, greedy; 3 runs, each 60 min",
        "**more**, greedy, trained on synthetic speech too; one run, 60 min",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("an4/mine/3.json", run(4, 1), "3.json: is of seed 4"),
        ("an4/mine/3.json", {"test": run(3, 1)["test"]}, "3.json: lacks 'seed'"),
        ("an4/mine/3.json", {"seed": 3, "val": {}}, "3.json: lacks 'test.word_errors'"),
        ("an4/mine/3.json", run(3, 1, test={"word_errors": 1, "words": 9, "char_errors": 1, "chars": 500}), "9 words"),
        ("an4/mine/3.json", [1], "3.json: lacks"),
        ("an4/other/recipe.json", {"name": "o", "command": "c", "source": "s"}, "other: no results"),
        ("an4/other/recipe.json", {"name": "o"}, "recipe.json: lacks 'command'"),
    ],
)
def test_a_wrong_file_is_named(folder, name, content, message):
    write(folder / name, content)
    with pytest.raises(InputError, match=message):
        list(results.rows(folder))


def test_a_missing_folder_and_a_damaged_file_are_named(folder):
    with pytest.raises(InputError, match=r"published\.json: No such file"):
        list(results.rows(folder / "nowhere"))
    (folder / "an4/mine/1.json").write_text("{")
    with pytest.raises(InputError, match=r"1\.json: not JSON"):
        list(results.rows(folder))


def test_the_page_shows_the_stored_results():
    assert between("results") == list(results.rows(STORED))
    assert len([line for line in between("results") if line.startswith("| **ds2f")]) == len(
        list(STORED.glob("an4/*/recipe.json"))
    ), "every recipe has a row"


def test_stored_rates_follow_from_the_counts_beside_them():
    checked = 0
    for path in STORED.glob("an4/*/*.json"):
        for found in json.loads(path.read_text(encoding="utf-8")).values():
            if isinstance(found, dict) and "wer" in found:
                checked += 1
                assert abs(found["wer"] - 100 * found["word_errors"] / found["words"]) < 1e-4, path
                assert abs(found["cer"] - 100 * found["char_errors"] / found["chars"]) < 1e-4, path
    assert checked


def test_published_rates_are_those_of_the_published_counts():
    published = json.loads((STORED / "published.json").read_text(encoding="utf-8"))
    counted = [system for system in published["systems"] if "word_errors" in system]
    assert len(counted) >= 7
    for system in counted:
        digits = len(str(system["wer"]).partition(".")[2])
        assert round(100 * system["word_errors"] / published["words"], digits) == system["wer"], system["name"]


def test_an_ablation_compares_each_change_with_the_base(tmp_path):
    write(tmp_path / "base_1.json", run(1, 20, change="base"))
    write(tmp_path / "base_2.json", run(2, 22, change="base"))
    write(tmp_path / "no_dropout.json", run(1, 25, change="without dropout"))
    write(tmp_path / "speeds.json", run(1, 19, change="five speeds", epochs=70))
    assert [cells(line) for line in ablation.rows(tmp_path)][2:] == [
        ["base", "10.50 (10.00 to 11.00)", "", "21.0 (20 to 22)", "60", "1, 2"],
        ["five speeds", "9.50", "-1.00", "19", "70", "1"],
        ["without dropout", "12.50", "+2.00", "25", "60", "1"],
    ]


def test_an_ablation_without_a_base_or_on_other_words_is_refused(tmp_path):
    with pytest.raises(InputError, match="'base'"):
        list(ablation.rows(tmp_path))
    write(tmp_path / "base.json", run(1, 20, change="base"))
    write(tmp_path / "other.json", run(1, 20, change="other", val={"word_errors": 20, "words": 199}))
    with pytest.raises(InputError, match="199 words, the base on 200"):
        list(ablation.rows(tmp_path))
    write(tmp_path / "other.json", run(1, 20))
    with pytest.raises(InputError, match=r"other\.json: lacks 'change'"):
        list(ablation.rows(tmp_path))


def test_the_page_shows_the_stored_ablation_if_there_is_one():
    folder = STORED / "ablation"
    assert ("<!-- ablation -->" in PAGE) == folder.exists()
    if folder.exists():
        assert between("ablation") == list(ablation.rows(folder))


def test_the_page_shows_the_stored_comparison_of_ranks(monkeypatch):
    monkeypatch.chdir(ROOT)
    eight, one = "configs/results/ranks/eight-*", "configs/results/ranks/one-*"
    assert between("ranks") == compare.rows(eight, one, split="val")
    assert f"--compare='{eight}' --against='{one}'" in PAGE
