"""What is done to a netlist for ECP5 between synthesis and place and route."""

import json

import pytest

from reticent_hw.boards.copies import FEW, TOGETHER, copy_registers
from reticent_hw.boards.floorplan import MULTIPLIER_ROWS, ROWS, place_blocks, place_multipliers
from reticent_hw.boards.netlist import finish
from reticent_hw.boards.output_registers import BLOCK, MULTIPLIER, absorb

CLOCK, ENABLE = 2, 3


def block(outputs, side="A"):
    """A block memory that gives `outputs` (nets)."""
    connections = {f"DO{side}{i}": [net] for i, net in enumerate(outputs)}
    connections |= {f"CLK{side}": [CLOCK], f"OCE{side}": ["0"], f"AD{side}0": ["0"]}
    return {
        "type": "DP16KD",
        "parameters": {"REGMODE_A": "NOREG", "REGMODE_B": "NOREG"},
        "attributes": {},
        "port_directions": {
            name: "output" if name.startswith("DO") else "input" for name in connections
        },
        "connections": connections,
    }


def register(data, output, **nets):
    """A register; `nets` are its clock, enable, reset where they are not the usual ones."""
    enabled = "CE" in nets
    connections = {"CLK": [CLOCK], "LSR": ["0"], "DI": [data], "Q": [output]}
    connections |= {name: [net] for name, net in nets.items()}
    return {
        "type": "TRELLIS_FF",
        # As Yosys writes it, with a space.
        "parameters": {"CEMUX": "CE" if enabled else "1 ", "CLKMUX": "CLK"},
        "attributes": {},
        "port_directions": {n: "output" if n == "Q" else "input" for n in connections},
        "connections": connections,
    }


def gate(net):
    return {
        "type": "LUT4",
        "parameters": {},
        "attributes": {},
        "port_directions": {"A": "input"},
        "connections": {"A": [net]},
    }


def module(**cells):
    return {"attributes": {"top": "00000001"}, "ports": {}, "netnames": {}, "cells": cells}


class TestOutputRegisters:
    def test_registers_move_into_the_block(self):
        m = module(b=block([10, 11]), r0=register(10, 20), r1=register(11, 21), g=gate(20))
        assert absorb(m)[BLOCK] == 1
        assert set(m["cells"]) == {"b", "g"}
        b = m["cells"]["b"]
        assert b["parameters"] == {"REGMODE_A": "OUTREG", "REGMODE_B": "NOREG"}
        assert (b["connections"]["DOA0"], b["connections"]["DOA1"]) == ([20], [21])
        assert b["connections"]["OCEA"] == ["1"]

    def test_their_enable_becomes_the_block_s(self):
        m = module(b=block([10], "B"), r=register(10, 20, CE=ENABLE))
        assert absorb(m)[BLOCK] == 1
        assert m["cells"]["b"]["connections"]["OCEB"] == [ENABLE]

    def test_bits_that_nobody_reads_do_not_matter(self):
        assert absorb(module(b=block([10, 11]), r=register(10, 20)))[BLOCK] == 1

    @pytest.mark.parametrize(
        "others",
        [
            {"r1": register(11, 21), "g": gate(10)},  # read in front of the register, too
            {"g": gate(11)},  # a bit without a register
            {"r1": register(11, 21, CE=ENABLE)},  # moves at other times
            {"r1": register(11, 21, CLK=9)},
            {"r1": register(11, 21, LSR=9)},  # is reset
        ],
    )
    def test_otherwise_they_stay(self, others):
        m = module(b=block([10, 11]), r0=register(10, 20), **others)
        before = json.dumps(m)
        assert absorb(m)[BLOCK] == 0
        assert json.dumps(m) == before

    def test_an_output_of_the_design_stays(self):
        m = module(b=block([10]), r=register(10, 20))
        m["ports"] = {"o": {"direction": "output", "bits": [10]}}
        assert absorb(m)[BLOCK] == 0


def multiplier(outputs):
    """A multiplier that gives `outputs` (nets), as Yosys writes it: without a clock."""
    connections = {f"P{i}": [net] for i, net in enumerate(outputs)}
    return {
        "type": "MULT18X18D",
        "parameters": {},
        "attributes": {},
        "port_directions": dict.fromkeys(connections, "output"),
        "connections": connections,
    }


class TestMultiplierRegisters:
    def test_registers_move_into_the_multiplier(self):
        m = module(x=multiplier([10, 11, 12]), r0=register(10, 20), r1=register(11, 21))
        assert absorb(m) == {BLOCK: 0, MULTIPLIER: 1}
        assert set(m["cells"]) == {"x"}
        x = m["cells"]["x"]
        assert x["parameters"]["REG_OUTPUT_CLK"] == "CLK0"
        nets = x["connections"]
        assert (nets["P0"], nets["P1"], nets["P2"]) == ([20], [21], [12])
        assert (nets["CLK0"], nets["CE0"], nets["RST0"]) == ([CLOCK], ["1"], ["0"])
        assert set(x["port_directions"]) == set(nets)

    @pytest.mark.parametrize(
        "others",
        [
            {"r1": register(11, 21), "g": gate(10)},
            {"g": gate(11)},
            {"r1": register(11, 21, CE=ENABLE)},
            {"r1": register(11, 21, CLK=9)},
            {"r1": register(11, 21, LSR=9)},
        ],
    )
    def test_otherwise_they_stay(self, others):
        m = module(x=multiplier([10, 11]), r0=register(10, 20), **others)
        before = json.dumps(m)
        assert absorb(m)[MULTIPLIER] == 0
        assert json.dumps(m) == before


def lanes(count, blocks, shared):
    cells = {
        f"system.core.lane_{i}.parts.weights.piece_{j}.0.0": block([])
        for i in range(count)
        for j in range(blocks)
    }
    return module(**cells, **{f"system.core.encoder.piece_{i}": block([]) for i in range(shared)})


def places(m):
    """Row and place on it, in columns of the device, by cell."""
    found = {}
    for name, cell in m["cells"].items():
        x, y, _ = cell["attributes"]["BEL"].split("/")
        found[name] = (int(y[1:]), int(x[1:]))
    return found


class TestCopies:
    def shared(self, count, **others):
        """A register (net 20) that so many lanes read."""
        cells = {f"core.lane_{i}.parts.arrived": register(20, 100 + i) for i in range(count)}
        return module(**{"core.scan": register(10, 20, CE=ENABLE)}, **cells, **others)

    def test_neighbouring_lanes_share_one(self):
        count = TOGETHER * (FEW + 1)
        m = self.shared(count)
        assert copy_registers(m) == FEW + 1
        assert "core.scan" not in m["cells"]  # nobody reads it any more
        driven = {cell["connections"]["Q"][0]: cell for cell in m["cells"].values()}
        assert len(driven) == len(m["cells"])
        of_lane = [m["cells"][f"core.lane_{i}.parts.arrived"] for i in range(count)]
        read = [cell["connections"]["DI"][0] for cell in of_lane]
        assert len(set(read)) == FEW + 1
        for i in range(0, count, TOGETHER):
            assert len(set(read[i : i + TOGETHER])) == 1
        for net in read:
            copy = driven[net]
            assert (copy["connections"]["DI"], copy["connections"]["CE"]) == ([10], [ENABLE])
            assert copy["parameters"]["CEMUX"] == "CE"

    def test_other_readers_keep_theirs(self):
        m = self.shared(TOGETHER * (FEW + 1), reader=gate(20))
        copy_registers(m)
        assert m["cells"]["core.scan"]["connections"]["Q"] == [20]
        assert m["cells"]["reader"]["connections"]["A"] == [20]

    def test_nets_without_a_reader_are_not_taken(self):
        m = self.shared(TOGETHER * (FEW + 1), unread=register(11, 5000))
        copy_registers(m)
        driven = [cell["connections"]["Q"][0] for cell in m["cells"].values()]
        assert len(set(driven)) == len(driven)

    def test_few_lanes_read_the_register_itself(self):
        m = self.shared(TOGETHER * FEW)
        before = json.dumps(m)
        assert copy_registers(m) == 0
        assert json.dumps(m) == before


class TestPlaces:
    @pytest.mark.parametrize(
        ("count", "blocks", "shared"), [(16, 10, 20), (16, 13, 0), (4, 30, 7), (5, 9, 3)]
    )
    def test_every_block_has_its_own(self, count, blocks, shared):
        m = lanes(count, blocks, shared)
        assert place_blocks(m) == count * blocks + shared
        found = places(m)
        assert len(set(found.values())) == len(found)
        for i in range(count):
            own = [at for name, at in found.items() if f".lane_{i}." in name]
            (row,) = {y for y, _ in own}
            assert row in ROWS
            low, high = min(x for _, x in own), max(x for _, x in own)
            between = [n for n, (y, x) in found.items() if y == row and low <= x <= high]
            assert all(f".lane_{i}." in name for name in between)

    def test_what_is_shared_is_in_the_middle(self):
        found = places(m) if place_blocks(m := lanes(16, 10, 20)) else {}
        shared = [at for name, at in found.items() if "encoder" in name]
        assert {y for y, _ in shared} == set(ROWS[1:3])
        assert all(40 < x < 85 for _, x in shared)

    def test_what_does_not_fit_is_left_to_the_placer(self):
        m = lanes(16, 14, 0)
        assert place_blocks(m) == 0
        assert not any(cell["attributes"] for cell in m["cells"].values())


class TestMultipliers:
    @pytest.mark.parametrize("count", [1, 5, 16])
    def test_each_is_in_the_row_next_to_its_lane(self, count):
        m = lanes(count, 10, 0)
        for i in range(count):
            for j in range(3):
                name = f"system.core.lane_{i}.parts.product_{j}"
                m["cells"][name] = {"type": "MULT18X18D", "attributes": {}}
        place_blocks(m)
        assert place_multipliers(m) == 3 * count
        found = {n: at for n, at in places(m).items() if ".product_" in n}
        assert len(set(found.values())) == len(found)
        for i in range(count):
            (row,) = {
                y for y, _ in (at for n, at in places(m).items() if f".lane_{i}.parts.w" in n)
            }
            distance = min(abs(row - y) for y in MULTIPLIER_ROWS)
            for name, (y, _) in found.items():
                if f".lane_{i}." in name:
                    assert abs(row - y) == distance

    def test_those_outside_of_lanes_are_left_to_the_placer(self):
        m = lanes(4, 10, 0)
        m["cells"]["system.core.scanner.x"] = {"type": "MULT18X18D", "attributes": {}}
        place_blocks(m)
        assert place_multipliers(m) == 0

    def test_no_lane_has_one_where_no_block_has_a_place(self):
        m = module(**{"core.lane_0.product": {"type": "MULT18X18D", "attributes": {}}})
        assert place_multipliers(m) == 0


def test_a_file_is_changed(tmp_path):
    path = tmp_path / "n.json"
    m = module(**{"core.lane_0.weights": block([10]), "r": register(10, 20)})
    path.write_text(json.dumps({"modules": {"top": m, "LUT4": {"attributes": {}}}}))
    finish(path)
    (cell,) = json.loads(path.read_text())["modules"]["top"]["cells"].values()
    assert cell["parameters"]["REGMODE_A"] == "OUTREG"
    assert cell["attributes"]["BEL"].startswith("X")
