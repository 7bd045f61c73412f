"""What is asked of each database: questions with the SQL that answers them, and changes with the SQL that makes them."""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """A question of one value, with placeholders."""

    level: int
    """1: one table; 2: a join or an aggregate; 3: groups, ties told."""
    text: str
    sql: str
    """The reference; placeholders become quoted values."""
    draw: str
    """A query whose rows are the values that may be filled in; its columns are named like the placeholders."""


class Change(NamedTuple):
    """A change of the database, with placeholders."""

    level: int
    text: str
    sql: str
    draw: str


_CATEGORY = "select category as a from characters group by 1 having count(*) >= 12"
_MODULE = "select module as a from functions group by 1 having count(*) >= 5"
_SECTION = "select section as a from packages group by 1 having count(*) >= 5"
_COUNTRY = "select country as a from parts group by 1 having count(*) >= 12"
_RELATION = "select relation as a from relations group by 1 having count(*) >= 12"
_TIES = "If several do, the first by name."

QUESTIONS: dict[str, list[Question]] = {
    "python": [
        Question(
            1, "How many characters have the category {a}?", "select count(*) from characters where category = {a}", _CATEGORY
        ),
        Question(
            1,
            "How many characters of the direction {a} have the word LETTER in their name?",
            "select count(*) from characters where direction = {a} and name like '%LETTER%'",
            "select direction as a from characters where name like '%LETTER%' group by 1 having count(*) >= 12",
        ),
        Question(
            1,
            "How many functions and classes of the module {a} are listed?",
            "select count(*) from functions where module = {a}",
            "select module as a from functions group by 1 having count(*) >= 12",
        ),
        Question(
            2,
            "How many parameters do all functions and classes of the module {a} have together?",
            "select sum(parameters) from functions where module = {a}",
            _MODULE,
        ),
        Question(
            2,
            "How many entities stand for a character of the category {a} that is in the table of characters?",
            "select count(*) from entities join characters using (code) where category = {a}",
            "select category as a from entities join characters using (code) group by 1 having count(*) >= 12",
        ),
        Question(
            2,
            "How many words do the functions of the package {a} have in all? Classes do not count.",
            "select sum(f.words) from functions f join modules m on m.name = f.module "
            "where package = {a} and kind = 'function'",
            "select package as a from functions f join modules m on m.name = f.module where kind = 'function' group by 1 "
            "having sum(f.words) >= 50",
        ),
        Question(
            3,
            f"Which module has the most functions and classes with at least {{a}} parameters? {_TIES}",
            "select module from functions where parameters >= {a} group by module order by count(*) desc, module limit 1",
            "select value as a from (select 1 as value union select 2 union select 3 union select 4 union select 5)",
        ),
        Question(
            3,
            "How many modules have more optional parameters, over all their functions and classes, than the module {a}?",
            "select count(*) from (select module, sum(optional) s from functions group by module) where s > "
            "(select sum(optional) from functions where module = {a})",
            _MODULE,
        ),
        Question(
            3,
            "Among the functions and classes of the module {a}, how many words has the one with the longest name? "
            "If several do, the first by name.",
            "select words from functions where module = {a} order by length(name) desc, name limit 1",
            _MODULE,
        ),
    ],
    "packages": [
        Question(1, "How many packages are in the section {a}?", "select count(*) from packages where section = {a}", _SECTION),
        Question(
            2,
            "What is the size of all packages of the section {a}?",
            "select sum(size) from packages where section = {a}",
            _SECTION,
        ),
        Question(
            2,
            "How many packages of the section {a} depend on {b}?",
            "select count(distinct name) from packages join depends on package = name where section = {a} and target = {b}",
            "select section as a, target as b from packages join depends on package = name group by 1, 2 having count(*) >= 6",
        ),
        Question(
            3,
            f"Which package of the section {{a}} has the most different direct dependencies? {_TIES}",
            "select name from packages join depends on package = name where section = {a} group by name "
            "order by count(distinct target) desc, name limit 1",
            _SECTION,
        ),
        Question(
            3,
            "How many packages does {a} need, directly or through others? Count those in the table of packages but not itself.",
            "with recursive need(n) as (select target from depends where package = {a} union "
            "select target from depends join need on package = n) "
            "select count(*) from need join packages on name = n where n <> {a}",
            "select package as a from depends group by 1 having count(*) >= 4",
        ),
    ],
    "iso": [
        Question(
            1, "How many parts has the country with the code {a}?", "select count(*) from parts where country = {a}", _COUNTRY
        ),
        Question(
            2,
            "How many parts of {a} are of the commonest kind there?",
            "select count(*) c from parts join countries on country = countries.code where countries.name = {a} "
            "group by kind order by c desc limit 1",
            "select countries.name as a from parts join countries on country = countries.code group by 1 having count(*) >= 12",
        ),
        Question(
            3,
            f"Which country has the most parts of the kind {{a}}? {_TIES}",
            "select countries.name from parts join countries on country = countries.code where kind = {a} "
            "group by countries.name order by count(*) desc, countries.name limit 1",
            "select kind as a from parts group by 1 having count(distinct country) >= 6",
        ),
    ],
    "wordnet": [
        Question(
            1, "How many relations of the kind {a} are there?", "select count(*) from relations where relation = {a}", _RELATION
        ),
        Question(
            2,
            "How many words has the gloss of all meanings of the kind {a} in file {b}, in all?",
            "select sum(words) from synsets where kind = {a} and file = {b}",
            "select kind as a, file as b from synsets group by 1, 2 having count(*) >= 8",
        ),
        Question(
            3,
            "Which word of a meaning in file {a} has the most meanings in all? If several do, the first by the alphabet.",
            "select word from words where word in (select word from words join synsets on id = synset where file = {a}) "
            "group by word order by count(*) desc, word limit 1",
            "select file as a from synsets group by 1 having count(*) >= 8",
        ),
    ],
}
"""Questions by source."""

CHANGES: dict[str, list[Change]] = {
    "python": [
        Change(1, "Delete every function and class of the module {a}.", "delete from functions where module = {a}", _MODULE),
        Change(
            2,
            "Set the direction of every character of the category {a} that has an entity to X.",
            "update characters set direction = 'X' where category = {a} and code in (select code from entities)",
            "select category as a from entities join characters using (code) group by 1 having count(*) >= 4",
        ),
        Change(
            2,
            "Add 1 to the parameters of every class of the module {a}.",
            "update functions set parameters = parameters + 1 where module = {a} and kind = 'class'",
            "select module as a from functions where kind = 'class' group by 1 having count(*) >= 3",
        ),
        Change(
            3,
            "Set members, of every module with at least {a} words, to the number of its functions and classes that are listed.",
            "update modules set members = (select count(*) from functions where module = modules.name) where words >= {a}",
            "select words as a from modules where words < 400",
        ),
        Change(
            3,
            "For every character of the category {a} without an entity, add an entity with the character's name and code.",
            "insert into entities select name, code from characters "
            "where category = {a} and code not in (select code from entities)",
            "select category as a from characters where code not in (select code from entities) "
            "group by 1 having count(*) >= 3",
        ),
    ],
    "packages": [
        Change(1, "Delete every package of the section {a}.", "delete from packages where section = {a}", _SECTION),
        Change(
            2,
            "Set the priority of every package that something depends on, of the section {a}, to needed.",
            "update packages set priority = 'needed' where section = {a} and name in (select target from depends)",
            "select section as a from packages where name in (select target from depends) group by 1 having count(*) >= 3",
        ),
        Change(
            3,
            "Delete every dependency of packages of the section {a} whose target is not in the table of packages.",
            "delete from depends where package in (select name from packages where section = {a}) "
            "and target not in (select name from packages)",
            "select section as a from packages join depends on package = name where target not in (select name from packages) "
            "group by 1 having count(*) >= 2",
        ),
    ],
    "iso": [
        Change(1, "Delete every part of the country with the code {a}.", "delete from parts where country = {a}", _COUNTRY),
        Change(
            2,
            "Set the kind of every part of {a} to Area.",
            "update parts set kind = 'Area' where country = (select code from countries where name = {a})",
            "select name as a from countries where code in (select country from parts)",
        ),
        Change(
            3,
            "Delete every part of the kind {a} in countries with more than 20 parts.",
            "delete from parts where kind = {a} and country in (select country from parts group by 1 having count(*) > 20)",
            "select kind as a from parts where country in (select country from parts group by 1 having count(*) > 20) "
            "group by 1 having count(*) >= 8",
        ),
    ],
    "wordnet": [
        Change(1, "Delete every relation of the kind {a}.", "delete from relations where relation = {a}", _RELATION),
        Change(
            3,
            "Delete every relation of the kind {a} whose target is not in the table of meanings.",
            "delete from relations where relation = {a} and target not in (select id from synsets)",
            "select relation as a from relations where target not in (select id from synsets) group by 1 having count(*) >= 4",
        ),
    ],
}  # fmt: skip
"""Changes by source."""
QUESTIONS["archive"], CHANGES["archive"] = QUESTIONS["packages"], CHANGES["packages"]
