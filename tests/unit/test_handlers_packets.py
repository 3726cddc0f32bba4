"""The visitor on the classes of a packet analyzer: twenty kinds of packets with bases within bases."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from queuelib.handlers import Handlers


@dataclass(frozen=True)
class Packet:
    """What comes from the wire."""

    payload: bytes = b""


TREE: dict[str, str] = {
    **dict.fromkeys(("Ethernet", "WiFi", "Loopback"), "Packet"),
    **dict.fromkeys(("ARP", "IP", "LLDP"), "Ethernet"),
    **dict.fromkeys(("IPv4", "IPv6"), "IP"),
    **dict.fromkeys(("ICMP", "UDP", "TCP"), "IPv4"),
    **dict.fromkeys(("DNS", "DHCP", "NTP"), "UDP"),
    **dict.fromkeys(("HTTP", "TLS", "SSH"), "TCP"),
    "HTTP2": "HTTP",
    "Beacon": "WiFi",
    "Probe": "Beacon",
}
KINDS: dict[str, type[Packet]] = {}
for _name, _base in TREE.items():
    KINDS[_name] = type(_name, (KINDS.get(_base, Packet),), {})

NEAREST = {
    "Ethernet": "Ethernet",
    "ARP": "Ethernet",
    "LLDP": "Ethernet",
    "IP": "IP",
    "IPv4": "IP",
    "IPv6": "IP",
    "ICMP": "IP",
    "UDP": "UDP",
    "DNS": "DNS",
    "DHCP": "UDP",
    "NTP": "UDP",
    "TCP": "TCP",
    "SSH": "TCP",
    "TLS": "TLS",
    "HTTP": "HTTP",
    "HTTP2": "HTTP",
    "WiFi": "generic",
    "Beacon": "Beacon",
    "Probe": "Beacon",
    "Loopback": "generic",
}


class Analyzer(Handlers):
    """Tells which of its methods was called, and counts bytes a protocol."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def visit_Ethernet(self, packet: Packet) -> str:
        """Handle a frame."""
        return self._count("Ethernet", packet)

    def visit_IP(self, packet: Packet) -> str:
        """Handle a datagram."""
        return self._count("IP", packet)

    def visit_UDP(self, packet: Packet) -> str:
        """Handle a datagram with ports."""
        return self._count("UDP", packet)

    def visit_DNS(self, packet: Packet) -> str:
        """Handle a question."""
        return self._count("DNS", packet)

    def visit_TCP(self, packet: Packet) -> str:
        """Handle a segment."""
        return self._count("TCP", packet)

    def visit_TLS(self, packet: Packet) -> str:
        """Handle a record."""
        return self._count("TLS", packet)

    def visit_HTTP(self, packet: Packet) -> str:
        """Handle a request."""
        return self._count("HTTP", packet)

    def visit_Beacon(self, packet: Packet) -> str:
        """Handle an announcement."""
        return self._count("Beacon", packet)

    def generic_visit(self, packet: Packet) -> str:
        """Handle the rest."""
        return self._count("generic", packet)

    def _count(self, name: str, packet: Packet) -> str:
        self.seen[name] = self.seen.get(name, 0) + len(packet.payload)
        return name


def test_there_are_twenty_kinds() -> None:
    """Every one of them is a packet, up to six deep, and has its line in the table."""
    assert len(KINDS) == 20
    assert NEAREST.keys() == KINDS.keys()
    assert all(issubclass(kind, Packet) for kind in KINDS.values())
    assert max(len(kind.__mro__) for kind in KINDS.values()) == len(KINDS["HTTP2"].__mro__) == 8


@pytest.mark.parametrize("name", KINDS)
def test_a_packet_goes_to_the_nearest_method(name: str) -> None:
    """Its own, else that of the nearest kind above it, else the default; the second time as the first."""
    analyzer = Analyzer()
    packet = KINDS[name](b"abc")
    assert [analyzer.visit(packet), analyzer.visit(packet)] == [NEAREST[name]] * 2
    assert analyzer.seen == {NEAREST[name]: 6}


def test_a_method_for_one_kind_takes_it_from_those_above() -> None:
    """Added at run time, it gets its kind and what is below, and the others stay where they were."""
    analyzer = Analyzer()
    before = {name: analyzer.visit(kind()) for name, kind in KINDS.items()}
    analyzer.add(KINDS["IPv4"], lambda _: "IPv4")
    after = {name: analyzer.visit(kind()) for name, kind in KINDS.items()}
    assert {name for name in KINDS if before[name] != after[name]} == {"IPv4", "ICMP"}
    assert after["ICMP"] == "IPv4"
