"""The visitor: which method does the work of a message or option."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from queuelib.errors import RegistrationError, UnknownTask
from queuelib.handlers import Handlers


class Animal:
    """Above all others."""


class Pet(Animal):
    """In the middle."""


class Fish(Pet):
    """Has no method of its own."""


class Cat(Pet):
    """Has a method of its own."""


class Wild:
    """A second base."""


class Tiger(Wild, Cat):
    """Has two bases."""


class Stone:
    """Not an animal."""


class Zoo(Handlers):
    """Has methods for some classes and options."""

    def __init__(self, name: str = "zoo") -> None:
        self.name = name

    def visit_Pet(self, pet: Pet) -> str:
        """Feed."""
        return f"{self.name} feeds the {type(pet).__name__}"

    def visit_Cat(self, cat: Cat, *names: str, **traits: str) -> tuple[Any, ...]:
        """Call."""
        return ("cat", cat, names, traits)

    def visit_42(self, number: int) -> str:
        """Answer."""
        return f"answer {number!r}"

    def visit_IN(self, option: str, *args: int, subject: str = "") -> tuple[Any, ...]:
        """Let in."""
        return (option, args, subject)

    def visit_int(self, number: int) -> str:
        """Count."""
        return f"int {number}"

    def visit_None(self, nothing: None) -> str:
        """Do nothing."""
        return "none"


class Park(Zoo):
    """Has a default besides."""

    def generic_visit(self, subject: object) -> str:
        """Look."""
        return f"default for {type(subject).__name__}"


class Counting(Zoo):
    """Counts the look-ups of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("visit_") or name == "generic_visit":
            super().__getattribute__("counts").append(name)
        return super().__getattribute__(name)


class TestByClass:
    """A message goes to the method of its class, of a base, or to the default."""

    def test_its_own_class_first(self) -> None:
        """The most specific method is called with the message and all that follows it."""
        cat = Cat()
        assert Zoo().visit(cat, "Tom", color="blue") == ("cat", cat, ("Tom",), {"color": "blue"})

    def test_then_its_bases_in_their_order_of_resolution(self) -> None:
        """A class without a method is handled as its nearest base that has one."""
        assert Zoo().visit(Fish()) == "zoo feeds the Fish"
        assert Zoo().visit(Tiger())[0] == "cat"

    def test_then_the_default(self) -> None:
        """`generic_visit` gets what has no method; a base's method comes before it."""
        assert Park().visit(Stone()) == "default for Stone"
        assert Park().visit(Fish()) == "zoo feeds the Fish"

    def test_else_an_error(self) -> None:
        """Without a default it names the method that is missing."""
        with pytest.raises(UnknownTask, match="Zoo has neither visit_Stone nor generic_visit"):
            Zoo().visit(Stone())

    def test_a_visitor_holds_its_configuration(self) -> None:
        """Methods are bound: two visitors of one class are two."""
        assert [Zoo(name).visit(Fish()) for name in ("west", "east")] == ["west feeds the Fish", "east feeds the Fish"]

    def test_object_is_no_base(self) -> None:
        """A method for `object` would be a default in disguise."""

        class All(Handlers):
            def visit_object(self, subject: object) -> None:
                """Never called."""

        with pytest.raises(UnknownTask):
            All().visit(Stone())

    @pytest.mark.parametrize("disabled", [None, 3])
    def test_what_cannot_be_called_is_no_method(self, disabled: object) -> None:
        """A subclass switches a method off by setting it to None, and the base's takes over."""

        class Quiet(Zoo):
            visit_Cat = disabled  # type: ignore[assignment]  # what is tried here

        class Silent(Handlers):
            visit_Cat = disabled

        assert Quiet().visit(Cat()) == "zoo feeds the Cat"
        assert Quiet().handles(Cat)
        assert not Silent().handles(Cat)

    def test_messages_of_any_kind(self) -> None:
        """Dataclasses and named tuples are found by their class, and need not be hashable."""

        @dataclass
        class Evaluate:
            genome: list[float]

        class Point(NamedTuple):
            x: int

        class Lab(Handlers):
            def visit_Evaluate(self, message: Evaluate) -> float:
                """Add."""
                return sum(message.genome)

            def visit_Point(self, message: Point) -> int:
                """Project."""
                return message.x

        lab = Lab()
        assert [lab.visit(Evaluate([1.0, x])) for x in (1.0, 2.0)] == [2.0, 3.0]
        assert lab.visit(Point(7)) == 7

    def test_handles(self) -> None:
        """Whether a class or a base of it has a method; the default does not count."""
        assert Park().handles(Tiger)
        assert not Park().handles(Stone)
        assert Park().has_default
        assert not Zoo().has_default


class TestByOption:
    """Plain values go to the method named after them."""

    def test_numbers_and_texts(self) -> None:
        """`visit(42)` calls `visit_42`, `visit("IN")` calls `visit_IN`, with all that follows."""
        assert Zoo().visit(42) == "answer 42"
        assert Zoo().visit("IN", 1, 2, subject="water") == ("IN", (1, 2), "water")
        assert Zoo().visit(None) == "none"

    def test_the_option_before_its_type(self) -> None:
        """A value without a method of its own is handled as its type."""
        assert Zoo().visit(43) == "int 43"
        assert Zoo().visit(42) == "answer 42"

    def test_equal_options_of_two_types_are_two(self) -> None:
        """1, 1.0 and True are equal, and each finds its own method."""

        class Kinds(Handlers):
            def visit_1(self, subject: int) -> str:
                return "1"

            def visit_float(self, subject: float) -> str:
                return "float"

            def visit_True(self, subject: bool) -> str:  # noqa: FBT001
                return "True"

        kinds = Kinds()
        for _ in range(2):
            assert [kinds.visit(subject) for subject in (1, 1.0, True)] == ["1", "float", "True"]

    def test_an_unknown_option(self) -> None:
        """The error names the method that is missing."""
        with pytest.raises(UnknownTask, match="Zoo has neither visit_OUT nor generic_visit"):
            Zoo().visit("OUT")


class TestRunTime:
    """Methods that come later."""

    def test_a_method_is_added(self) -> None:
        """By class or by name; it gets the message first and not the visitor."""
        zoo = Zoo()
        zoo.add(Stone, lambda stone: ("added", stone))
        zoo.add("OUT", lambda option, count: f"{option} {count}")
        zoo.add("-7", lambda number: number * 2)
        stone = Stone()
        assert zoo.visit(stone) == ("added", stone)
        assert zoo.visit("OUT", 3) == "OUT 3"
        assert zoo.visit(-7) == -14

    def test_it_is_seen_by_what_was_looked_up_before(self) -> None:
        """A message that went to the default goes to its own method once there is one."""
        park = Park()
        assert park.visit(Stone()) == "default for Stone"
        park.add(Stone, lambda _: "added")
        assert park.visit(Stone()) == "added"

    def test_it_is_added_to_one_visitor(self) -> None:
        """Others of the class do not have it."""
        Zoo().add(Stone, lambda _: "added")
        with pytest.raises(UnknownTask):
            Zoo().visit(Stone())

    @pytest.mark.parametrize("name", [Cat, "Cat", "IN", 42])
    def test_a_second_method_is_refused(self, name: Any) -> None:
        """Which of two would run is never left to chance."""
        zoo = Zoo()
        with pytest.raises(RegistrationError, match=f"Zoo already has visit_{getattr(name, '__name__', name)}"):
            zoo.add(name, lambda _: None)

    def test_added_twice_is_refused(self) -> None:
        """The first one stays."""
        zoo = Zoo()
        zoo.add(Stone, lambda _: 1)
        with pytest.raises(RegistrationError):
            zoo.add(Stone, lambda _: 2)
        assert zoo.visit(Stone()) == 1


class TestSpeed:
    """What was found is remembered."""

    @pytest.mark.parametrize("subject", [Fish(), Tiger(), 42, 43, "IN", None])
    def test_a_second_look_up_asks_for_no_attribute(self, subject: object) -> None:
        """It is one access to a dictionary: no name is made and no attribute looked up."""
        visitor = Counting()
        first = visitor.find(subject)
        assert visitor.counts
        visitor.counts.clear()
        assert visitor.find(subject) == first
        assert visitor.counts == []

    def test_another_message_of_the_class_is_known(self) -> None:
        """The class is remembered, not the message."""
        visitor = Counting()
        visitor.find(Fish())
        visitor.counts.clear()
        assert visitor.find(Fish()) == visitor.visit_Pet
        assert visitor.counts == ["visit_Pet"]  # the one that the line above asked for

    def test_options_do_not_fill_the_memory(self) -> None:
        """There is no end of them, and an end to what is remembered."""
        zoo = Zoo()
        assert [zoo.visit(number) for number in (10_500, 10_501)] == ["int 10500", "int 10501"]
        for number in range(100, 10_200):
            zoo.find(number)
        assert len(zoo._methods()) == 10_000
        assert zoo.visit(20_000) == "int 20000"


def test_a_coroutine_is_returned_as_it_is() -> None:
    """Who calls `visit` decides where it runs."""

    class Web(Handlers):
        async def visit_str(self, url: str) -> str:
            return f"got {url}"

    found = Web().visit("page")
    assert inspect.iscoroutine(found)
    assert asyncio.run(found) == "got page"
