"""The visitors of a dispatcher as one, and what they are refused for."""

from __future__ import annotations

from typing import Any

import pytest

from queuelib.errors import RegistrationError
from queuelib.handlers import Handlers, Registry


class Packet:
    """A message."""


class Frame(Packet):
    """A message with a base."""


class Other:
    """A message that has no method."""


def visitor(name: str, *methods: str) -> Handlers:
    """Return a visitor with these methods, each of which returns the visitor's name."""
    namespace: dict[str, Any] = {method: lambda self, message: name for method in methods}  # noqa: ARG005
    made = type(name, (Handlers,), namespace)()
    assert isinstance(made, Handlers)
    return made


def registry(*visitors: Handlers) -> Registry:
    """Return a registry of these visitors."""
    made = Registry()
    for each in visitors:
        made.add(each)
    return made


def call(found: Any, message: object) -> str:
    """Call what the registry has found."""
    answer: str = found.find(message)(message)
    return answer


class TestFind:
    """A message goes to one visitor of many."""

    def test_the_visitor_that_has_a_method(self) -> None:
        """Whichever it is."""
        both = registry(visitor("A", "visit_Other"), visitor("B", "visit_Packet"))
        assert (call(both, Other()), call(both, Packet())) == ("A", "B")

    @pytest.mark.parametrize("is_reversed", [False, True])
    def test_the_most_specific_of_all_visitors(self, is_reversed: bool) -> None:  # noqa: FBT001 - a parameter
        """A method for the class comes before one for its base, in whatever order the visitors were registered."""
        visitors = [visitor("Base", "visit_Packet"), visitor("Special", "visit_Frame")]
        both = registry(*(visitors[::-1] if is_reversed else visitors))
        assert (call(both, Frame()), call(both, Packet())) == ("Special", "Base")

    @pytest.mark.parametrize("is_reversed", [False, True])
    def test_a_method_before_the_default(self, is_reversed: bool) -> None:  # noqa: FBT001
        """`generic_visit` of one visitor gets only what no visitor has a method for."""
        visitors = [visitor("Default", "generic_visit"), visitor("Special", "visit_Packet")]
        both = registry(*(visitors[::-1] if is_reversed else visitors))
        assert (call(both, Frame()), call(both, Other())) == ("Special", "Default")

    def test_nobody(self) -> None:
        """Without a method or a default there is none, and the registry says so beforehand."""
        made = registry(visitor("A", "visit_Packet"))
        assert made.find(Other()) is None
        assert not made.handles(Other)
        assert made.handles(Frame)

    def test_a_default_handles_all(self) -> None:
        """With a `generic_visit` every class is handled."""
        assert registry(visitor("A", "generic_visit")).handles(Other)

    def test_methods_added_later_are_found(self) -> None:
        """A visitor may learn after it was registered."""
        late = visitor("A", "visit_Packet")
        made = registry(late)
        assert call(made, Frame()) == "A"
        late.add(Frame, lambda _: "late")
        assert call(made, Frame()) == "late"


class TestRefused:
    """What would depend on the order of imports is an error at registration."""

    def test_two_handlers_for_one_message(self) -> None:
        """Two visitors with a method of one name; the error names both and the method."""
        with pytest.raises(RegistrationError, match="B and A both have visit_Packet$"):
            registry(visitor("A", "visit_Packet", "visit_Other"), visitor("B", "visit_Packet"))

    def test_two_defaults(self) -> None:
        """Two visitors with a `generic_visit`."""
        with pytest.raises(RegistrationError, match="B and A both have generic_visit$"):
            registry(visitor("A", "generic_visit"), visitor("B", "generic_visit", "visit_Other"))

    def test_one_visitor_twice(self) -> None:
        """It has its own methods already."""
        once = visitor("A", "visit_Packet")
        with pytest.raises(RegistrationError, match="both have visit_Packet"):
            registry(once, once)

    def test_inherited_methods_count(self) -> None:
        """A subclass of a registered visitor's class has the same methods."""
        base = visitor("A", "visit_Packet")
        derived = type("B", (type(base),), {})()
        with pytest.raises(RegistrationError, match="B and A both have visit_Packet"):
            registry(base, derived)

    def test_methods_added_at_run_time_count(self) -> None:
        """They are as good as written ones."""
        late = visitor("A")
        late.add(Packet, lambda _: None)
        with pytest.raises(RegistrationError, match="both have visit_Packet"):
            registry(late, visitor("B", "visit_Packet"))

    def test_methods_switched_off_do_not_count(self) -> None:
        """A visitor that sets a method to None leaves the message to another."""
        base = visitor("A", "visit_Packet", "visit_Other")
        derived = type("B", (type(base),), {"visit_Packet": None})()
        assert isinstance(derived, Handlers)
        both = registry(derived, visitor("C", "visit_Packet"))
        assert (call(both, Packet()), call(both, Other())) == ("C", "A")

    def test_a_refused_visitor_is_not_there(self) -> None:
        """Nothing of it was registered."""
        made = registry(visitor("A", "visit_Packet"))
        with pytest.raises(RegistrationError):
            made.add(visitor("B", "visit_Packet", "visit_Other"))
        assert made.find(Other()) is None

    @pytest.mark.parametrize("thing", [Handlers, type("Zoo", (Handlers,), {}), object(), None])
    def test_no_visitor(self, thing: Any) -> None:
        """A class in the place of its instance, and anything else, is refused."""
        with pytest.raises(RegistrationError, match="takes an instance of a Handlers subclass, not"):
            registry(thing)


class TestSimpleNames:
    """`visit_Packet` cannot mean two classes."""

    def twin(self, cls: type) -> type:
        """Return another class of the same simple name."""
        return type(cls.__name__, (), {"__module__": "elsewhere"})

    def test_the_visitor_first(self) -> None:
        """The second class of a name is refused when a registered visitor has a method for it."""
        made = registry(visitor("A", "visit_Packet"))
        made.know(Packet)
        with pytest.raises(
            RegistrationError, match=r"visit_Packet would mean both .*\.Packet and elsewhere\.Packet: rename"
        ):
            made.know(self.twin(Packet))

    def test_the_classes_first(self) -> None:
        """The visitor is refused when two classes of that name are known; the order does not matter."""
        made = Registry()
        made.know(Packet)
        made.know(self.twin(Packet))
        with pytest.raises(
            RegistrationError, match=r"visit_Packet would mean both .*\.Packet and elsewhere\.Packet: rename"
        ):
            made.add(visitor("A", "visit_Packet"))
        assert made.find(Packet()) is None

    def test_without_a_method_they_do_no_harm(self) -> None:
        """Two classes of one name may both go to the default."""
        made = registry(visitor("A", "generic_visit"))
        made.know(Packet)
        made.know(self.twin(Packet))
        assert call(made, Packet()) == "A"

    def test_a_class_known_twice_is_one(self) -> None:
        """Registered again, it is no second class."""
        made = registry(visitor("A", "visit_Packet"))
        made.know(Packet)
        made.know(Packet)
        assert call(made, Packet()) == "A"
