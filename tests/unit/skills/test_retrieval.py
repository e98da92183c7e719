"""Which skill a task's teacher is told: every kind of `skills.retrieval`, and its edges."""

from pathlib import Path

import pytest

from sdar.config import parse_config
from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.base import Moment, Task
from sdar.environments.packages import environment_package
from sdar.errors import SdarError
from sdar.skills import open_skills
from sdar.skills.library import SkillLibrary
from sdar.skills.retrieval import best_match, derived_keywords, drawn_type, matches, words

TEXTS = {
    "general": "Think first.",
    "heat_it": "---\nkeywords: [put, heat, hot]\n---\nBring a hot object.\n{habits}",
    "look_at": "---\nkeywords: [look, desk lamp]\n---\nUse the lamp.",
    "put_it": "---\nkeywords: [put]\n---\nBring an object.",
}


class Told:
    """A world of which one thing is known a type."""

    def habits_text(self, task_type: str) -> str:
        return f"Usual place of {task_type}: the fridge."


def task(instruction: str = "put a mug in cabinet.", task_type: str = "put_it", name: str = "a"):
    return Task(name, "train", task_type, instruction, "nowhere")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    return tmp_path


def test_front_matter_is_told_to_nobody(folder: Path) -> None:
    library = SkillLibrary(folder, Told())
    told = library.lookup("heat_it").text
    assert told == "Think first.\nBring a hot object.\nUsual place of heat_it: the fridge."
    assert library.keywords["heat_it"] == ("put", "heat", "hot")


def test_front_matter_leaves_the_digest_of_what_is_told(folder: Path) -> None:
    before = SkillLibrary(folder).lookup("put_it").digest
    (folder / "put_it.md").write_text("Bring an object.")
    assert SkillLibrary(folder).lookup("put_it").digest == before


@pytest.mark.parametrize(
    ("front", "says"),
    [
        ("keywords: [put", "not valid YAML"),
        ("keyword: [put]", "knows the key `keywords` alone"),
        ("keywords: put", "to be a list of words"),
        ("keywords: ['--']", "to be a list of words"),
        ("- put", "knows the key `keywords` alone"),
    ],
)
def test_wrong_front_matter_names_the_file(folder: Path, front: str, says: str) -> None:
    (folder / "put_it.md").write_text(f"---\n{front}\n---\nBring it.")
    with pytest.raises(SdarError, match=r"front matter of .*put_it\.md") as error:
        SkillLibrary(folder)
    assert says in str(error.value)


def test_a_rule_inside_a_text_is_no_front_matter(folder: Path) -> None:
    (folder / "put_it.md").write_text("Bring it.\n---\nkeywords: none\n---\nDone.")
    assert SkillLibrary(folder).lookup("put_it").text.endswith("---\nDone.")


@pytest.mark.parametrize(
    ("keyword", "instruction", "occurs"),
    [
        ("hat", "is that the mug?", False),  # the reference matches inside words
        ("hat", "find the hat.", True),
        ("Hat", "FIND THE HAT!", True),
        ("mug", "put two mugs away", True),
        ("glass", "wash the glasses", True),
        ("mugs", "wash the mug", False),  # a plural asks for more than one
        ("desk lamp", "use the desk-lamp", True),
        ("desk-lamp", "use the desk lamp", True),
        ("desk lamp", "use the desklamp", False),
        ("desk lamp", "the lamp on the desk", False),
        ("desk lamp", "two desk lamps", True),
        ("lamp", "use the desk-lamp", True),
        ("lamp", "use the desklamp", False),
        ("café", "go to the CAFÉ", True),
        ("café", "go to the cafe\N{COMBINING ACUTE ACCENT}", True),
        ("straße", "in der STRASSE", True),
        ("微波炉", "加热 微波炉", True),
        ("2", "put 12 mugs", False),
    ],
)
def test_keywords_are_whole_words(keyword: str, instruction: str, occurs: bool) -> None:
    assert matches([keyword], instruction) == occurs


def test_distinct_matches_are_counted_once() -> None:
    assert matches(["put", "Put", "PUT"], "put and put and put") == 1
    assert words("a_b-c  d.") == ("a", "b", "c", "d")


def test_most_matches_win_and_equals_go_by_name() -> None:
    keywords = {"b": ["put", "hot"], "a": ["put", "cold"], "c": ["put"]}
    assert best_match(keywords, "put a hot mug down") == "b"
    assert best_match(keywords, "put a mug down") == "a"
    assert best_match(dict(reversed(keywords.items())), "put a mug down") == "a"
    assert best_match(keywords, "look around") is None
    assert best_match({}, "put") is None


def test_keywords_derived_are_those_no_other_type_has() -> None:
    titles = {"heat_it": "Bring one hot object to it.", "cool_it": "Bring one cold object to it."}
    assert derived_keywords(titles) == {"heat_it": ("heat", "hot"), "cool_it": ("cold", "cool")}


def test_skills_without_front_matter_derive(folder: Path) -> None:
    (folder / "heat_it.md").write_text("Bring a hot object.\nkeywords: none")
    library = SkillLibrary(folder, retrieval="keyword")
    assert library.keywords["heat_it"] == ("heat", "hot")
    assert library.keywords["look_at"] == ("look", "desk lamp")
    assert library.for_task(task("a HOT thing, please")).name == "keyword:heat_it"


def test_declaring_no_keyword_means_none(folder: Path) -> None:
    (folder / "put_it.md").write_text("---\nkeywords: []\n---\nBring it.")
    assert SkillLibrary(folder).keywords["put_it"] == ()


def test_keyword_reads_the_instruction_and_nothing_else(folder: Path) -> None:
    library = SkillLibrary(folder, retrieval="keyword")
    skill = library.for_task(task("put a hot mug in cabinet.", task_type="look_at", name="look"))
    assert skill.name == "keyword:heat_it"
    assert skill.text == library.lookup("heat_it").text
    assert skill.digest == library.lookup("heat_it").digest


def test_no_keyword_tells_the_general_text_alone(folder: Path) -> None:
    skill = SkillLibrary(folder, retrieval="keyword").for_task(task("do something"))
    assert (skill.name, skill.text) == ("keyword:general", "Think first.")
    (folder / "general.md").write_text("")
    silent = SkillLibrary(folder, retrieval="keyword").for_task(task("do something"))
    assert (silent.name, silent.text) == ("keyword:general", "")


def test_an_empty_general_text_leaves_no_empty_line(folder: Path) -> None:
    (folder / "general.md").write_text("\n")
    assert SkillLibrary(folder).lookup("put_it").text == "Bring an object."
    assert SkillLibrary(folder, retrieval="all").for_task(task()).text.startswith("## heat it\n")


def test_all_tells_every_type_in_order_with_its_habits(folder: Path) -> None:
    skill = SkillLibrary(folder, Told(), retrieval="all").for_task(task())
    assert skill.name == "all"
    assert skill.text.splitlines() == [
        "Think first.",
        "## heat it",
        "Bring a hot object.",
        "Usual place of heat_it: the fridge.",
        "## look at",
        "Use the lamp.",
        "## put it",
        "Bring an object.",
    ]


def test_random_is_a_function_of_seed_and_task(folder: Path) -> None:
    tasks = [task(name=f"task-{index}") for index in range(300)]
    names = [SkillLibrary(folder, retrieval="random").for_task(one).name for one in tasks]
    library = SkillLibrary(folder, retrieval="random", seed=0)
    assert [library.for_task(one).name for one in reversed(tasks)] == names[::-1]
    other = SkillLibrary(folder, retrieval="random", seed=1)
    assert [other.for_task(one).name for one in tasks] != names
    counts = {name: names.count(name) for name in names}
    assert set(counts) == {f"random:{name}" for name in TEXTS if name != "general"}
    assert min(counts.values()) > 70  # 100 expected, standard deviation 8
    assert drawn_type(["b", "a"], 0, "x") == drawn_type(["a", "b"], 0, "x")


def test_type_refuses_an_unknown_type_and_the_other_kinds_need_none(folder: Path) -> None:
    unknown = task(task_type="put")
    with pytest.raises(SdarError, match=r"task type\(s\) put;"):
        SkillLibrary(folder).for_task(unknown)
    for kind in ("keyword", "all", "random", "none"):
        SkillLibrary(folder, retrieval=kind).for_task(unknown)


@pytest.mark.parametrize("environment", ["alfworld", "searchqa"])
def test_none_is_the_students_own_prompt(environment: str, folder: Path) -> None:
    """With equal prompts the teacher is the student: the gap is 0 and every gate one half."""
    skill = SkillLibrary(folder, Told(), retrieval="none").for_task(task())
    assert (skill.name, skill.text) == ("none", "")
    moment = Moment(task(), (), "A room.", ("look",), 0)
    build = environment_package(environment).build_messages
    assert build(moment, skill.text) == build(moment, None) == build(moment)


def test_digests_tell_assignments_apart(folder: Path) -> None:
    tasks = [task(name=f"task-{index}") for index in range(20)]
    digests = {
        (kind, seed): SkillLibrary(folder, Told(), retrieval=kind, seed=seed).digests(tasks)
        for kind in ("type", "keyword", "all", "random", "none")
        for seed in (0, 1)
    }
    assert digests["type", 0] == {"put_it": SkillLibrary(folder, Told()).lookup("put_it").digest}
    for kind in ("type", "keyword", "all", "none"):
        assert digests[kind, 0] == digests[kind, 1]
    assert digests["random", 0]["retrieval"] != digests["random", 1]["retrieval"]
    assert len({tuple(values.items()) for values in digests.values()}) == 6
    shuffled = SkillLibrary(folder, Told(), retrieval="random").digests(tasks[::-1])
    assert shuffled == digests["random", 0]


def test_configured_kind_and_seed_are_opened(folder: Path) -> None:
    config = parse_config({"skills": {"library": str(folder), "retrieval": "random", "seed": 5}})
    opened = open_skills(config, Told())
    assert (opened.retrieval, opened.seed, opened.folder) == ("random", 5, folder)
    assert opened.knowledge is not None
    assert open_skills(parse_config({}), None).retrieval == "type"


ALFWORLD_INSTRUCTIONS = {
    "put a mug in cabinet.": "pick_and_place_simple",
    "put some cloth on toilet.": "pick_and_place_simple",
    "look at mug under the desklamp.": "look_at_obj_in_light",
    "examine the book with the desklamp.": "look_at_obj_in_light",
    "put a clean plate in countertop.": "pick_clean_then_place_in_recep",
    "clean some knife and put it in drawer.": "pick_clean_then_place_in_recep",
    "put a hot egg in garbagecan.": "pick_heat_then_place_in_recep",
    "heat some bread and put it in fridge.": "pick_heat_then_place_in_recep",
    "put a cool tomato in microwave.": "pick_cool_then_place_in_recep",
    "cool some apple and put it in sinkbasin.": "pick_cool_then_place_in_recep",
    "put two candle in drawer.": "pick_two_obj_and_place",
    "find two pen and put them in drawer.": "pick_two_obj_and_place",
}


def test_declared_keywords_find_every_wording_of_alfworld() -> None:
    """ALFWorld's own goal templates name the type, and `sinkbasin` or `microwave` mislead none."""
    library = SkillLibrary(retrieval="keyword")
    for instruction, task_type in ALFWORLD_INSTRUCTIONS.items():
        assert library.for_task(task(instruction)).name == f"keyword:{task_type}", instruction
    assert set(ALFWORLD_INSTRUCTIONS.values()) == set(ALFWORLD_TASK_TYPES)
