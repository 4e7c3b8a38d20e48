"""Simulated boards: the whole design behind its serial pins."""

import os
import pty
import re
import subprocess
import sys
import tty
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reticent import cli
from reticent.agent import find_agent
from reticent.compiler import compile_network
from reticent.errors import ToolError, UserError
from reticent.golden import Golden
from reticent.layout import LOADED, SPACE_SHIFT, Register, Space, word_index_bits
from reticent.link.client import Client, LinkError
from reticent.link.protocol import LinkWord, link_address
from reticent.link.serial_port import SerialChannel, find_board
from reticent.link.transport import BoardAccelerator, LinkTransport
from reticent.random_networks import random_frames, random_network
from reticent_sim.board import SimBoard
from reticent_sim.channel import SimChannel
from reticent_sim.faults import KINDS, LIMITS, PATIENCE, torture
from reticent_sim.small import SMALL

ROOT = Path(__file__).resolve().parents[2]
NETWORK = random_network(0, LIMITS)
FRAMES = random_frames(NETWORK, 0, 30)


@pytest.fixture(scope="module")
def image():
    return compile_network(NETWORK, SMALL)


@pytest.fixture
def board():
    found = SimBoard(SMALL, name="tortured", patience=PATIENCE)
    yield found
    found.close()


def driver(board, image):
    client = Client(SimChannel(board))
    return BoardAccelerator("fpga", LinkTransport(client), image)


def check(device, golden, frames):
    """Every answer equals the golden model's; returns what the last one said."""
    for frame in frames:
        got, expected = device.step(frame), golden.step(frame)
        np.testing.assert_array_equal(got.outputs, expected.outputs)
        assert list(got.events) == list(expected.events)
        assert list(got.significant) == list(expected.significant)
    return got


def test_plays_and_shows_its_neurons(board, image):
    device, golden = driver(board, image), Golden(NETWORK)
    assert device.loaded
    check(device, golden, FRAMES)
    for got, expected in zip(device.accumulators(), golden.acc, strict=True):
        np.testing.assert_array_equal(got, expected)
    use = device.link_use()
    assert use.board == "tortured at the simulated board"
    assert len(use.frames) == len(FRAMES)
    # Framing, checksum and the flags are 13 bytes; a frame is never much longer than its bytes.
    assert all(0 < f.sent <= f.raw + 15 for f in use.frames)
    assert (use.retries, use.resets) == (0, 0)


def test_an_image_is_loaded_once(board, image):
    first = driver(board, image)
    second = driver(board, image)
    assert (first.loaded, second.loaded) == (True, False)
    check(second, Golden(NETWORK), FRAMES[:5])
    other = random_network(3, LIMITS)
    assert driver(board, compile_network(other, SMALL)).loaded


def corrupt(transport, image, space, rng):
    """Change a bit of a memory behind the driver's back; the board still claims the image."""
    addresses, data = image.contents()
    row_words = 1 << word_index_bits(SMALL, space)
    at = int(rng.choice(np.flatnonzero(addresses >> SPACE_SHIFT == space)))
    row = slice(at - at % row_words, at - at % row_words + row_words)
    words = data[row].copy()
    words[0] ^= 1
    transport.write(addresses[row], words)
    tag = np.frombuffer(image.tag, "<u4")
    where = [link_address(LinkWord.TAG + i) for i in range(len(tag))]
    transport.write(np.array(where, np.uint32), tag)
    return int(data[row][0])


@pytest.mark.parametrize("space", LOADED)
def test_a_memory_that_changed_is_reported_and_loaded_again(board, image, space):
    transport = LinkTransport(Client(SimChannel(board)))
    device = BoardAccelerator("fpga", transport, image)
    assert device.link_use().damage is None
    assert transport.difference(image) is None
    was = corrupt(transport, image, space, np.random.default_rng(int(space)))
    wrong = transport.difference(image)
    assert re.fullmatch(
        rf"the board holds {was ^ 1:#x} in {space.name}( of lane \d)?, row \d+ instead of {was:#x}",
        wrong,
    )
    again = driver(board, image)
    assert (again.loaded, again.link_use().damage) == (True, wrong)
    check(again, Golden(NETWORK), FRAMES[:5])


def test_a_memory_that_does_not_keep_what_is_loaded_is_an_error(board, image, monkeypatch):
    """Every word reaches the core, which the digests of WRITE say; one is lost behind it."""
    difference = LinkTransport.difference

    def lose(transport, image):
        corrupt(transport, image, Space.WEIGHT, np.random.default_rng(0))
        return difference(transport, image)

    monkeypatch.setattr(LinkTransport, "difference", lose)
    with pytest.raises(ToolError, match=r"in WEIGHT of lane \d, row \d+ .* just after it was load"):
        driver(board, image)
    monkeypatch.undo()
    assert driver(board, image).loaded


def test_registers_are_read_back(board, image):
    wrong = replace(image, registers={**image.registers, int(Register.ID): 1})
    with pytest.raises(ToolError, match=r"holds 0x5254434e in register 0 instead of 0x1, just aft"):
        driver(board, wrong)


def test_thresholds_change_and_survive_a_reset(board, image):
    device, golden = driver(board, image), Golden(NETWORK)
    counts = [3] * len(NETWORK.layers)
    check(device, golden, FRAMES[:4])
    device.set_thresholds(counts)
    golden.set_thresholds(counts)
    check(device, golden, FRAMES[4:8])
    board.reset()
    golden.reset()
    check(device, golden, FRAMES[8:12])


def test_a_reset_is_noticed_and_said(board, image):
    device, golden = driver(board, image), Golden(NETWORK)
    assert not check(device, golden, FRAMES[:3]).fresh
    board.reset()
    with pytest.raises(ToolError, match="was reset, its neurons are gone"):
        device.accumulators()
    golden.reset()
    assert check(device, golden, FRAMES[3:4]).fresh
    assert not check(device, golden, FRAMES[4:6]).fresh
    assert device.link_use().resets == 1
    # At the start of an episode nothing is lost, so nothing need be said.
    board.reset()
    device.reset()
    golden.reset()
    assert not check(device, golden, FRAMES[:3]).fresh


def test_image_for_another_build_is_refused(board):
    image = compile_network(NETWORK, SMALL.replace(queue_depth=65))
    with pytest.raises(UserError, match=r"the image is for build .* compile the image for this"):
        driver(board, image)


def test_a_result_that_does_not_fit_is_refused(board, image, monkeypatch):
    monkeypatch.setattr(Client, "reply_room", 20)
    with pytest.raises(UserError, match=r"result of this network has .* larger reply_bytes"):
        LinkTransport(Client(SimChannel(board))).load(image)


def test_another_baud_rate_is_silence(board):
    channel = SimChannel(board)
    board.send(b"")
    other = SimBoard(SMALL, name="tortured", patience=PATIENCE)
    other.send = lambda data: SimBoard.send(other, bytes(b ^ 0x55 for b in data))
    with pytest.raises(LinkError, match="no Reticent answered HELLO in 2 tries: is the board"):
        Client(SimChannel(other), tries=2)
    other.close()
    Client(channel)


def test_nothing_wrong_gets_through():
    outcome = torture(200, seed=1)
    print(outcome.text())
    assert not outcome.wrong
    assert set(outcome.faults) == set(KINDS)
    assert outcome.right > sum(outcome.reported.values())


@pytest.mark.slow
def test_nothing_wrong_gets_through_for_long():
    outcome = torture(10_000, seed=2)
    print(outcome.text())
    assert not outcome.wrong


@contextmanager
def terminal(*arguments):
    """`sim/board.py` in a process of its own; gives the path of its serial port."""
    command = [sys.executable, str(ROOT / "sim" / "board.py"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("board", "lanes"), [("arty", 2), pytest.param("ulx3s", 16, marks=pytest.mark.slow)]
)
def test_breakout_on_a_whole_board_behind_a_terminal(tmp_path, capsys, board, lanes):
    """60 decisions with the bytes that a real board would get, beside the golden model."""
    with terminal("--board", board) as (_, path):
        report = tmp_path / "report.json"
        arguments = ["--port", path, "--max-decisions", "60", "--check", "--json", str(report)]
        assert cli.main(["play", "--backend", "fpga", *arguments]) == 0
        output = capsys.readouterr().out
        assert "every decision equals the golden model's, to the bit" in output
        assert f"{board} at {path}, 80 MHz; loaded" in output
        assert cli.main(["board", "info", "--port", path]) == 0
        assert f"{lanes} lanes" in capsys.readouterr().out
        # A second driver finds the image there.
        client = Client(SerialChannel(path))
        agent = find_agent(None, "breakout", client.hello.config)
        network = agent.quantised(accumulator_bits=client.hello.config.accumulator_bits)
        image = compile_network(network, client.hello.config, list(agent.calibration))
        device = BoardAccelerator("fpga", LinkTransport(client), image)
        assert not device.loaded
        device.close()


class TestPorts:
    """Serial ports at which no board is."""

    @pytest.fixture
    def silent(self):
        """A terminal at whose other end nobody listens."""
        master, slave = pty.openpty()
        tty.setraw(slave)
        yield os.ttyname(slave)
        os.close(master)
        os.close(slave)

    def test_no_board_answers(self, silent):
        with pytest.raises(UserError, match=rf"no board answers at .* \(asked: {silent}\)"):
            find_board(candidates=[silent])
        with pytest.raises(UserError, match=r"\(asked: none\)"):
            find_board(candidates=[])

    def test_a_port_is_ours_alone(self, silent):
        first = SerialChannel(silent)
        with pytest.raises(UserError, match=f"{silent} is in use by another program"):
            SerialChannel(silent)
        first.close()
        SerialChannel(silent).close()

    def test_no_such_port(self):
        with pytest.raises(UserError, match="no port /dev/none: plug the board in, or give one"):
            SerialChannel("/dev/none")

    def test_no_serial_port(self, tmp_path):
        path = tmp_path / "file"
        path.touch()
        with pytest.raises(UserError, match="is no serial port"):
            SerialChannel(str(path))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
    def test_no_permission(self, silent):
        os.chmod(silent, 0)
        with pytest.raises(UserError, match=r"may not be opened: join its group \(sudo usermod"):
            SerialChannel(silent)

    def test_why_a_permission_is_missing(self, silent, monkeypatch):
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("serial.Serial", refuse)
        with pytest.raises(UserError, match=r"join its group \(sudo usermod -aG \w+ "):
            SerialChannel(silent)
